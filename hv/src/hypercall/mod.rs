//! Hypercalls: one exhaustive match, one line per call.
