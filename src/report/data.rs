//! The page of one dataset, from its identity to its recipe.

use maud::{Markup, html};

use super::{charts, sample, sources};
use crate::dataset::Dataset;
use crate::inspect;
use crate::manifest::{FORMAT, Manifest, Split, Stage, Totals};
use crate::pause::Policy;
use crate::stats::{SplitStats, Stats};
use crate::units::{grouped, percent, share, short};

/// What rows of a stage are called.
pub fn title(stage: Stage) -> &'static str {
    match stage {
        Stage::Pretrain => "Pretraining data",
        Stage::Finetune => "Finetuning data",
    }
}

/// The page's body.
pub fn page(dataset: &Dataset, stats: &Stats, samples: u64) -> Result<Markup, inspect::Error> {
    let manifest = &dataset.manifest;
    let asked = asked(&manifest.pause.policy);
    let shown = match dataset.rows(Split::Train) {
        0 => Split::Validation,
        _ => Split::Train,
    };
    Ok(html! {
        header {
            p.eyebrow { "pausedata · dataset " span.digest { (stats.dataset.short()) } }
            h1 { (title(stats.stage)) }
            p.lead { (lead(manifest, stats)) }
        }
        main {
            (headline(stats, asked))
            (splits(stats))
            (charts::section(stats, asked))
            (mixture(&manifest.pause.policy, stats))
            (sources::documents(manifest, stats))
            (sources::contamination(manifest))
            (sources::files(&stats.files))
            (sample::section(dataset, shown, samples)?)
            (identity(manifest, stats))
        }
        footer {
            "Made by pausedata " (env!("CARGO_PKG_VERSION")) " from dataset " span.digest { (stats.dataset) } "."
            br; code { "pausedata verify" } " proves that the shards are these."
        }
    })
}

/// The share of pauses that the recipe asks for, where it asks for one.
fn asked(policy: &Policy) -> Option<f64> {
    match policy {
        Policy::Random { fraction, .. } => Some(*fraction),
        _ => None,
    }
}

/// The dataset in one sentence.
fn lead(manifest: &Manifest, stats: &Stats) -> String {
    let sum = |count: fn(&SplitStats) -> u64| stats.splits.values().map(count).sum::<u64>();
    let pauses = match sum(|split| split.totals.pauses) {
        0 => "without pauses".to_string(),
        pauses => format!("{} of them pauses", grouped(pauses)),
    };
    format!(
        "{} rows of at most {} ids from {} documents in {} {}: {} ids, {pauses}.",
        grouped(sum(|split| split.totals.rows)),
        grouped(manifest.row_length as u64),
        grouped(stats.ledger.kept),
        grouped(manifest.corpus.len() as u64),
        if manifest.corpus.len() == 1 {
            "file"
        } else {
            "files"
        },
        grouped(sum(|split| split.totals.real + split.totals.pauses)),
    )
}

/// The numbers that are asked for first, over both splits.
fn headline(stats: &Stats, asked: Option<f64>) -> Markup {
    let sum = |count: fn(&SplitStats) -> u64| stats.splits.values().map(count).sum::<u64>();
    let (real, pauses) = (
        sum(|split| split.totals.real),
        sum(|split| split.totals.pauses),
    );
    let overflowed = sum(|split| split.totals.overflowed);
    let text = (real + overflowed).saturating_sub(sum(|split| split.totals.documents));
    let density = match asked {
        Some(asked) => format!("of all ids; asked for: {}", percent(asked)),
        None => "of all ids".into(),
    };
    let dropped: u64 = stats.ledger.dropped.values().sum();
    let scored = sum(|split| split.totals.scored);
    let per_token = share(sum(|split| split.totals.text_bytes), text);
    let figures = [
        (
            "Documents",
            short(stats.ledger.kept),
            format!("{} dropped", grouped(dropped)),
        ),
        (
            "Rows",
            short(sum(|split| split.totals.rows)),
            format!("of at most {} ids", grouped(stats.row_length as u64)),
        ),
        (
            "Text",
            short(real),
            "ids, ends of documents included".into(),
        ),
        ("Pauses", percent(share(pauses, real + pauses)), density),
        (
            "Scored",
            percent(share(scored, real + pauses)),
            "of all ids are targets of the loss".into(),
        ),
        (
            "Bytes a token",
            format!("{per_token:.2}"),
            "UTF-8 bytes of text an id of text".into(),
        ),
    ];
    html! {
        dl.headline {
            @for (name, figure, note) in figures {
                div { dt { (name) } dd { b { (figure) } span { (note.replace(" %", "\u{a0}%")) } } }
            }
        }
    }
}

/// A bar of what the ids are for each split, and a table of all counts.
fn splits(stats: &Stats) -> Markup {
    let filled = stats
        .splits
        .iter()
        .filter(|(_, split)| 0 < split.totals.rows);
    html! {
        section {
            h2 { "Splits" }
            @for (split, stats) in filled { (composition(*split, stats)) }
            div.wide { table {
                thead { tr {
                    th scope="col" { "" }
                    @for split in stats.splits.keys() { th.n scope="col" { (split) } }
                } }
                tbody { @for (name, cells) in split_rows(stats) { tr {
                    th scope="row" { (name) }
                    @for cell in cells { td.n { (cell) } }
                } } }
            } }
        }
    }
}

fn composition(split: Split, stats: &SplitStats) -> Markup {
    let ids: u64 = stats.kinds.values().sum();
    html! {
        figure.composition {
            figcaption { "What the ids of the " (split) " split are" }
            div.stack role="presentation" {
                @for (kind, count) in &stats.kinds {
                    div class=(sample::class(*kind)) style={ "flex-grow:" (count) } title=(sample::name(*kind)) {}
                }
            }
            ul.legend {
                @for (kind, count) in &stats.kinds {
                    li {
                        span class={ "dot " (sample::class(*kind)) } {}
                        (sample::name(*kind)) " " b { (percent(share(*count, ids))) }
                    }
                }
            }
        }
    }
}

/// The counts of the splits, one row for each.
fn split_rows(stats: &Stats) -> Vec<(String, Vec<String>)> {
    let mut rows = Vec::new();
    let mut add = |name: &str, cell: &dyn Fn(&SplitStats) -> String| {
        rows.push((name.into(), stats.splits.values().map(cell).collect()));
    };
    add("shards", &|split| grouped(split.shards as u64));
    add("rows", &|split| grouped(split.totals.rows));
    add("documents", &|split| grouped(split.totals.documents));
    add("text, UTF-8 bytes", &|split| {
        grouped(split.totals.text_bytes)
    });
    add("bytes an id of text", &|split| {
        format!("{:.3}", split.bytes_per_token)
    });
    add("ids", &|split| {
        grouped(split.totals.real + split.totals.pauses)
    });
    add("ids of text and ends", &|split| grouped(split.totals.real));
    add("pauses", &|split| grouped(split.totals.pauses));
    add("pauses, share", &|split| percent(split.pause_density));
    add("scored targets", &|split| grouped(split.totals.scored));
    add("scored targets, share", &|split| {
        percent(split.scored_share)
    });
    add("ids pushed out by pauses", &|split| {
        grouped(split.totals.overflowed)
    });
    rows
}

/// What each policy of a mixture got.
fn mixture(policy: &Policy, stats: &Stats) -> Markup {
    let splits = stats.splits.values();
    let n_parts = splits
        .map(|split| split.totals.parts.len())
        .max()
        .unwrap_or(0);
    let part = |totals: &Totals, index: usize| totals.parts.get(index).copied().unwrap_or_default();
    html! {
        @if 0 < n_parts {
            section {
                h2 { "Mixture of policies" }
                p.note { "Each row follows one of these, drawn by the weights." }
                div.wide { table {
                    thead { tr {
                        th scope="col" { "policy" }
                        @for split in stats.splits.keys() {
                            th.n scope="col" { (split) " rows" } th.n scope="col" { "pauses" }
                        }
                    } }
                    tbody { @for (index, policy) in policy.parts().enumerate().take(n_parts) { tr {
                        th scope="row" { (inline(&json(policy))) }
                        @for split in stats.splits.values() {
                            @let part = part(&split.totals, index);
                            td.n { (grouped(part.rows)) } td.n { (grouped(part.pauses)) }
                        }
                    } } }
                } }
            }
        }
    }
}

/// What the dataset is, and the recipe that made it.
fn identity(manifest: &Manifest, stats: &Stats) -> Markup {
    let reserved = &manifest.tokenizer.reserved;
    let facts = [
        ("dataset", stats.dataset.to_string()),
        ("tokenizer", manifest.tokenizer.digest.to_string()),
        (
            "vocabulary",
            format!(
                "{} ids; {}",
                grouped(stats.vocab_size.into()),
                inline(&json(reserved))
            ),
        ),
        ("pauses", inline(&json(&manifest.pause))),
        ("seed", manifest.seed.to_string()),
        (
            "format",
            format!(
                "version {FORMAT}, {} bytes an id",
                manifest.id_width.bytes()
            ),
        ),
    ];
    let recipe = serde_json::to_string_pretty(&manifest.recipe).unwrap_or_default();
    html! {
        section {
            h2 { "Identity" }
            dl.facts { @for (name, fact) in facts { dt { (name) } dd { (fact) } } }
            details {
                summary { "The part of the recipe that decides the data" }
                pre.recipe { (recipe) }
            }
        }
    }
}

fn json(value: &impl serde::Serialize) -> serde_json::Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// A JSON object in words: `pause 1024, end 1025`.
fn inline(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Object(fields) => {
            let field = |(name, value): (&String, _)| format!("{name} {}", inline(value));
            fields.iter().map(field).collect::<Vec<_>>().join(", ")
        }
        serde_json::Value::Array(values) => {
            let values: Vec<_> = values.iter().map(inline).collect();
            format!("[{}]", values.join(", "))
        }
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
