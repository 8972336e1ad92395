//! The broker against a guardian played by the test, over a real socket pair.
