//! The program, driven as its users drive it.

mod crash;
mod damage;
mod errors;
mod laws;
mod sandbox;
#[cfg(feature = "train")]
mod training;
