"""The former name of `granulon.training.prepare.flux_reason`."""

import sys

from granulon.training.prepare.flux_reason import (
    CAPTIONS,
    QUESTIONS,
    SOURCE,
    SPLITS,
    TOTAL_ROWS,
    FluxReasonSample,
    main,
    sample_flux_reason,
)


__all__ = [
    "CAPTIONS",
    "QUESTIONS",
    "SOURCE",
    "SPLITS",
    "TOTAL_ROWS",
    "FluxReasonSample",
    "main",
    "sample_flux_reason",
]

if __name__ == "__main__":
    sys.exit(main())
