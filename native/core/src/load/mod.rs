//! What is measured of a backend.
