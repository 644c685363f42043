//! The binary `tidewire`.
fn main() {}
