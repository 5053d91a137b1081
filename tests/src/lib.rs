//! An empty library: the whole-system tests are in `tests/`.
