//! Tests of the whole engine.

use super::*;

#[test]
fn an_idle_connection_costs_little() {
    let size = size_of::<Engine>();
    assert!(size <= 200, "{size}");
}
