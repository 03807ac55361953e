//! Measurements of the program's own parts, repeatable by anybody on their machine.

mod clock;
pub mod loader;
pub mod tokenize;
#[cfg(feature = "train")]
pub mod train;
