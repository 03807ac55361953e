//! Where a dataset's documents came from and what became of them.

use maud::{Markup, html};

use super::sample::visible;
use crate::manifest::{Manifest, Overlap, REJECTS, Split};
use crate::stats::{FileStats, Stats};
use crate::units::{bytes, grouped, percent, share};

/// Input files that are listed; the rest is summed.
const FILES_MAX: usize = 200;

/// What happened to the documents, drops by reason.
pub fn documents(manifest: &Manifest, stats: &Stats) -> Markup {
    let ledger = &stats.ledger;
    let mut fates = vec![("kept".to_string(), ledger.kept, "kept")];
    let reasons = ledger.dropped.iter();
    fates.extend(reasons.map(|(reason, count)| (format!("dropped: {reason}"), *count, "dropped")));
    let largest = fates.iter().map(|(_, count, _)| *count).max();
    let width = |count: u64| format!("width:{:.2}%", 100.0 * share(count, largest.unwrap_or(0)));
    html! {
        section {
            h2 { "Documents" }
            p.note {
                (grouped(ledger.read)) " were read; each is kept or dropped for one reason."
                @if ledger.dropped.is_empty() { " None was dropped." }
                @if !manifest.rejects.is_empty() { " The dropped ones lie in the folder " code { (REJECTS) } "." }
            }
            div.wide { table.bars {
                thead { tr {
                    th scope="col" { "fate" } th.n scope="col" { "documents" } th.n scope="col" { "share" }
                    th scope="col" { span.hidden { "bar" } }
                } }
                tbody { @for (name, count, class) in &fates { tr {
                    th scope="row" { (name) }
                    td.n { (grouped(*count)) }
                    td.n { (percent(share(*count, ledger.read))) }
                    td.bar { div class=(class) style=(width(*count)) {} }
                } } }
            } }
        }
    }
}

/// The input files and what became of their documents.
pub fn files(files: &[FileStats]) -> Markup {
    let cells = |file: &FileStats| {
        let kept = |split| file.kept.get(&split).copied().unwrap_or(0);
        [
            grouped(file.documents),
            grouped(kept(Split::Train)),
            grouped(kept(Split::Validation)),
            grouped(file.dropped()),
            grouped(file.text_bytes),
            if file.bytes == 0 {
                "generated".into()
            } else {
                bytes(file.bytes)
            },
        ]
    };
    let (shown, rest) = files.split_at(files.len().min(FILES_MAX));
    let heads = [
        "documents",
        "train",
        "validation",
        "dropped",
        "text, bytes",
        "size",
    ];
    let total = |files: &[FileStats], name: String| {
        let mut sum = FileStats {
            name,
            ..FileStats::default()
        };
        for file in files {
            sum.bytes += file.bytes;
            sum.documents += file.documents;
            sum.text_bytes += file.text_bytes;
            for (split, count) in &file.kept {
                *sum.kept.entry(*split).or_default() += count;
            }
        }
        sum
    };
    let rest = (!rest.is_empty())
        .then(|| total(rest, format!("{} files more", grouped(rest.len() as u64))));
    let sum = (1 < files.len()).then(|| total(files, "all files".into()));
    html! {
        section {
            h2 { "Input files" }
            div.wide { table {
                thead { tr {
                    th scope="col" { "file" }
                    @for head in heads { th.n scope="col" { (head) } }
                } }
                tbody { @for file in shown.iter().chain(&rest) { tr {
                    th.name scope="row" { (file.name) }
                    @for cell in cells(file) { td.n { (cell) } }
                } } }
                @for sum in sum.iter() { tfoot { tr {
                    th scope="row" { (sum.name) }
                    @for cell in cells(sum) { td.n { (cell) } }
                } } }
            } }
        }
    }
}

/// What the documents hold of evaluation sets.
pub fn contamination(manifest: &Manifest) -> Markup {
    let place = |overlap: &Overlap| {
        let file = manifest.corpus.get(overlap.file as usize);
        let file = file.map_or("", |file| file.name.as_str());
        format!("{file}, row {}", overlap.row)
    };
    html! {
        @if !manifest.contamination.is_empty() {
            section {
                h2 { "Evaluation sets found in the documents" }
                div.wide { table {
                    thead { tr {
                        th scope="col" { "set" } th.n scope="col" { "documents" }
                        th scope="col" { "for example" }
                    } }
                    tbody { @for set in &manifest.contamination { tr {
                        th scope="row" { (set.name) }
                        td.n { (grouped(set.documents)) }
                        td.quotes {
                            @for overlap in &set.shown {
                                p { q { bdi { (visible(&overlap.words)) } } " " span.where { (place(overlap)) } }
                            }
                        }
                    } } }
                } }
            }
        }
    }
}
