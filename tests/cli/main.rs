//! The program, driven as its users drive it.
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "in a test, a panic is a failure"
)]

mod begin;
#[cfg(feature = "train")]
mod bench;
#[cfg(feature = "cloud")]
mod cloud;
mod crash;
mod curation;
mod damage;
mod errors;
#[cfg(feature = "train")]
mod experiment;
mod formats;
#[cfg(feature = "train")]
mod hub;
mod laws;
mod loading;
mod manners;
mod offline;
mod online;
mod packing;
mod pictures;
mod policies;
mod report;
#[cfg(feature = "train")]
mod runs;
mod sandbox;
mod splits;
#[cfg(feature = "train")]
mod training;
#[cfg(feature = "train")]
mod tuning;
