"""Task by data by model: tables with floors and ceilings."""
