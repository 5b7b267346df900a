"""Image files of any kind as RGB, and which files in a folder are images."""

from pathlib import Path

from timm.data.readers import add_img_extensions, get_img_extensions
from timm.utils.misc import natural_key
from torchvision.datasets.folder import IMG_EXTENSIONS  # type: ignore[import-untyped]

from resmlp_core.common.images import open_rgb, read_image

__all__ = ["find_images", "is_clutter", "open_rgb", "read_image"]

# timm reads .png, .jpg and .jpeg only, and leaves out others without a word. What telephones write as
# .heic is counted and named as unreadable, as Pillow cannot read it.
add_img_extensions((*IMG_EXTENSIONS, ".avif", ".gif", ".heic", ".heif", ".jfif", ".jp2"))

# What systems, archives and network disks leave beside images, in lower case; names with HIDDEN in front too.
CLUTTER = {
    *("thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r", "__macosx", "@eadir", "#recycle", "$recycle.bin"),
    *("system volume information", "lost+found", "__pycache__", "@recycle", "#snapshot", "~snapshot", "recycler"),
    *("lost.dir", "network trash folder", "temporary items", "@recently-snapshot"),
}
HIDDEN = (".", "~$")  # the latter are locks of files that are open


def is_clutter(name: str) -> bool:
    """Whether a file or folder is none of the user's images or classes: a hidden one, or an operating system's."""
    return name.startswith(HIDDEN) or name.lower() in CLUTTER


def find_images(folder: Path) -> list[Path]:
    """Return the images in a folder and in the folders in it, in their natural order; what is clutter is left out."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in get_img_extensions())
    kept = (path for path in found if not any(map(is_clutter, path.relative_to(folder).parts)) and path.is_file())
    return sorted(kept, key=lambda path: natural_key(str(path)))
