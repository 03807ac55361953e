//! The `pausedata` program.

fn main() {}
