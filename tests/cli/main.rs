//! The program, driven as its users drive it.
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "in a test, a panic is a failure"
)]

mod crash;
mod damage;
mod errors;
mod laws;
mod manners;
mod report;
mod sandbox;
#[cfg(feature = "train")]
mod training;
