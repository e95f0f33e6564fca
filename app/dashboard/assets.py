"""What the pages are made of: files beside this module, and plotly.js from its installed package. Compressed once, kept, named by content."""

import gzip
import hashlib
import threading
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from app.errors import NotFound

FOLDER = Path(__file__).parent / "static"
PLOTLY = "plotly.min.js"
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
GZIP_LEVEL = 6
"""A higher one makes plotly.js 0.5 % smaller and takes twice as long."""


@dataclass(frozen=True)
class Asset:
    """Bytes as they are and as they travel."""

    media_type: str
    plain: bytes
    gzipped: bytes
    etag: str

    @classmethod
    def pack(cls, media_type: str, plain: bytes) -> "Asset":
        etag = f'"{hashlib.sha256(plain).hexdigest()[:16]}"'
        return cls(media_type, plain, gzip.compress(plain, GZIP_LEVEL, mtime=0), etag)


class Assets:
    """`digest` stands in the address of every file, so that browsers may keep each for ever and never mix two versions."""

    def __init__(self) -> None:
        self._paths = {path.name: path for path in sorted(FOLDER.iterdir()) if path.suffix in MEDIA_TYPES}
        self._paths[PLOTLY] = _find_plotly()
        self._kept: dict[str, Asset] = {}
        self._lock = threading.Lock()

    @cached_property
    def digest(self) -> str:
        found = hashlib.sha256(version("plotly").encode())
        for name, path in self._paths.items():
            if name != PLOTLY:
                found.update(name.encode() + path.read_bytes())
        return found.hexdigest()[:12]

    def modules(self) -> list[str]:
        """The names of the ES modules, for the browser to fetch at once rather than one after the other."""
        return [name for name in self._paths if name.endswith(".js") and name not in (PLOTLY, "theme.js")]

    def read(self, name: str) -> Asset:
        """Raises NotFound. The first call for a file compresses it: 0.2 s for plotly.js, nothing for the others."""
        path = self._paths.get(name)
        if path is None:
            raise NotFound(f"there is no /static/{self.digest}/{name[:80]}")
        with self._lock:
            if name not in self._kept:
                self._kept[name] = Asset.pack(MEDIA_TYPES[path.suffix], path.read_bytes())
            return self._kept[name]


def _find_plotly() -> Path:
    """Where the installed package keeps plotly.js. Found without importing it, which would take a second."""
    spec = find_spec("plotly")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("plotly is one of the dependencies, and it is not installed")
    return Path(spec.origin).parent / "package_data" / PLOTLY
