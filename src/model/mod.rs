//! The model: parameters, the forward pass, generation's cache, Hugging Face files.

pub mod config;
