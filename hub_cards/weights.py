"""The files that hold weights: safetensors are read, pickles never."""

from pathlib import Path

from safetensors import SafetensorError, safe_open


_PICKLES = ("pytorch_model*.bin", "adapter_model*.bin", "*model*.pt", "*model*.pth", "*model*.pkl", "*.ckpt")


def check_no_pickles(directory: str | Path) -> None:
    """
    Raises:
        ValueError: the only weights are a pickle.
    """
    directory = Path(directory)
    pickles = sorted({path.name for pattern in _PICKLES for path in directory.glob(pattern)})
    if pickles and not any(directory.glob("*.safetensors")):
        raise ValueError(
            f"{directory} holds its weights as a pickle ({', '.join(pickles[:3])}), and only safetensors are read: "
            "reading a pickle can run code. Ask its author for safetensors; or, where you trust it, convert it: "
            "`safetensors.torch.save_file(torch.load(FILE, weights_only=True), NEW_FILE)`."
        )


def find_damage(path: Path) -> str | None:
    """Why a file of safetensors cannot be read, or `None`. Only its header is read, which tells its length."""
    try:
        with safe_open(path, "pt"):
            return None
    except (SafetensorError, OSError) as error:
        return f"{path} is damaged ({error}). Copy or download it again."
