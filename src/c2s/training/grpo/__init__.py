"""Group relative policy optimisation (SPEC §7): constrained rollouts, rewards of groups, and the trainer."""
