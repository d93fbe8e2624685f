"""The former name of `granulon.training.prepare.annotate`."""

from granulon.training.prepare.annotate import (
    DEFAULT_LEVELS,
    KNOWN_PRICES,
    AnnotationCache,
    AttemptFailed,
    ChatEndpoint,
    Price,
    RunStopped,
    annotate,
    ask_weights,
    build_prompt,
    estimate_tokens,
    failed_path,
    fingerprint,
    parse_reply,
    read_done,
    read_questions,
)


__all__ = [
    "DEFAULT_LEVELS",
    "KNOWN_PRICES",
    "AnnotationCache",
    "AttemptFailed",
    "ChatEndpoint",
    "Price",
    "RunStopped",
    "annotate",
    "ask_weights",
    "build_prompt",
    "estimate_tokens",
    "failed_path",
    "fingerprint",
    "parse_reply",
    "read_done",
    "read_questions",
]
