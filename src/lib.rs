//! Pause-token training from raw text to a verdict: exact data, exact resume.
//!
//! `ARCHITECTURE.md` tells how the modules fit; a module here names none above it.

pub mod report;

#[cfg(feature = "train")]
pub mod experiment;

pub mod run;

pub mod bench;

#[cfg(feature = "train")]
pub mod transfer;

#[cfg(feature = "train")]
pub mod eval;
#[cfg(feature = "train")]
pub mod generate;
#[cfg(feature = "train")]
pub mod train;

pub mod convert;
pub mod inspect;
pub mod prepare;
pub mod stats;
pub mod verify;

pub mod recipe;

pub mod loader;
pub mod model;

pub mod content;
pub mod dataset;
pub mod manifest;
pub mod shard;

pub mod corpus;
pub mod curate;
pub mod pack;
pub mod pause;
pub mod tokenize;

pub mod remote;

pub mod batch;
pub mod permutation;
pub mod row;
pub mod sequence;

pub mod digest;
pub mod document;
pub mod fingerprint;
pub mod fs;
pub mod npy;
pub mod panics;
pub mod progress;
pub mod rng;
pub mod seal;
pub mod token;
pub mod units;
