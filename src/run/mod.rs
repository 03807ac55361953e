//! A whole recipe, stage by stage: what stands already is found, the rest is made.

pub mod datasets;
#[cfg(feature = "train")]
pub mod training;
