//! Pages that a browser shows: one file, no script, nothing from the network.
//!
//! [`dataset`] is the page of one dataset, `training` that of a run, `experiment` that of an
//! experiment. Text of a corpus is hostile: every
//! value goes through `maud`, which escapes it, and a policy in the page forbids
//! scripts and connections.

mod charts;
mod data;
#[cfg(feature = "train")]
pub mod experiment;
pub mod plot;
mod sample;
mod sources;
#[cfg(feature = "train")]
pub mod training;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::dataset::Dataset;
use crate::inspect;
use crate::stats::Stats;

/// What a browser may do with a page: apply the style sheet inside it.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// The page of a dataset with at most `samples` of its rows; depends on the
/// dataset and that number alone.
pub fn dataset(dataset: &Dataset, stats: &Stats, samples: u64) -> Result<String, inspect::Error> {
    let title = format!("{} {}", data::title(stats.stage), stats.dataset.short());
    Ok(document(&title, &data::page(dataset, stats, samples)?).into_string())
}

/// A whole page.
fn document(title: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="generator" content={ "pausedata " (env!("CARGO_PKG_VERSION")) };
                title { (title) }
                style { (PreEscaped(include_str!("page.css"))) }
            }
            body { (body) }
        }
    }
}

#[cfg(test)]
mod tests;
