//! Rows of a dataset in colour, as `pausedata inspect` shows them.

use maud::{Markup, html};

use crate::dataset::Dataset;
use crate::inspect::{self, Kind, Piece};
use crate::manifest::Split;
use crate::tokenize::Tokenizer;
use crate::units::grouped;

/// Ids of a row that are shown at most; rows may be very long.
const IDS_MAX: usize = 512;

/// A row as it is shown.
struct Sample {
    index: u64,
    ids: usize,
    pauses: usize,
    pieces: Vec<Piece>,
    hidden: usize,
}

/// The section of sample rows: at most `n`, evenly spaced over the split.
pub fn section(dataset: &Dataset, split: Split, n: u64) -> Result<Markup, inspect::Error> {
    let rows = dataset.rows(split);
    let n = n.min(rows);
    let tokenizer = dataset.tokenizer()?;
    let index = |k: u64| u128::from(k) * u128::from(rows) / u128::from(n.max(1));
    let samples = (0..n)
        .map(|k| u64::try_from(index(k)).unwrap_or(rows))
        .map(|index| sample(dataset, &tokenizer, split, index))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(html! {
        @if !samples.is_empty() {
            section {
                h2 { "Sample rows" }
                p.note {
                    (grouped(n)) " of the " (grouped(rows)) " rows of the " (split)
                    " split, evenly spaced."
                }
                p.key { (legend()) }
                ol.samples { @for sample in &samples { (row(sample)) } }
            }
        }
    })
}

fn sample(
    dataset: &Dataset,
    tokenizer: &Tokenizer,
    split: Split,
    index: u64,
) -> Result<Sample, inspect::Error> {
    let mut row = dataset.row(split, index)?;
    let kinds = inspect::kinds(&row, tokenizer);
    let ids = row.len();
    // What an id is depends on nothing after it.
    row.ids.truncate(IDS_MAX);
    Ok(Sample {
        index,
        ids,
        pauses: kinds.iter().filter(|kind| **kind == Kind::Pause).count(),
        pieces: inspect::pieces(&row, tokenizer)?,
        hidden: ids - row.len(),
    })
}

fn row(sample: &Sample) -> Markup {
    html! {
        li {
            h3 {
                "row " (grouped(sample.index))
                span.note { " " (grouped(sample.ids as u64)) " ids, " (grouped(sample.pauses as u64)) " pauses" }
            }
            pre dir="auto" {
                @for piece in &sample.pieces { (self::piece(piece)) }
                @if 0 < sample.hidden { span.hidden-ids { " … and " (grouped(sample.hidden as u64)) " ids more" } }
            }
        }
    }
}

fn legend() -> Markup {
    html! {
        @for kind in [Kind::Pause, Kind::Scored, Kind::Prefix, Kind::End] {
            span class=(class(kind)) { (sign(kind)) } " " (name(kind)) "  "
        }
    }
}

fn piece(piece: &Piece) -> Markup {
    let text = match piece.kind {
        Kind::Pause | Kind::End => sign(piece.kind).repeat(piece.ids),
        Kind::Prefix | Kind::Scored | Kind::Unscored => visible(&piece.text),
    };
    html! { bdi class=(class(piece.kind)) title=(name(piece.kind)) { (text) } }
}

/// The style sheet's class of a kind.
pub fn class(kind: Kind) -> &'static str {
    match kind {
        Kind::Prefix => "prefix",
        Kind::Pause => "pause",
        Kind::Scored => "scored",
        Kind::Unscored => "unscored",
        Kind::End => "end",
    }
}

/// A kind of id in words.
pub fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Prefix => "prefix, read only",
        Kind::Pause => "pause",
        Kind::Scored => "scored text",
        Kind::Unscored => "first id of a row, not scored",
        Kind::End => "end of document, scored",
    }
}

fn sign(kind: Kind) -> &'static str {
    match kind {
        Kind::Pause => "⏸",
        Kind::End => "¶",
        Kind::Prefix | Kind::Scored | Kind::Unscored => "text",
    }
}

/// Text whose control characters can be seen and do nothing: no other character
/// changes the direction, hides or ends what stands around it.
pub fn visible(text: &str) -> String {
    let show = |c: char| match c {
        '\n' | '\t' => c.to_string(),
        '\0'..='\u{1f}' => {
            char::from_u32(0x2400 + u32::from(c)).map_or(String::new(), String::from)
        }
        '\u{7f}' => '\u{2421}'.to_string(),
        '\u{80}'..='\u{9f}'
        | '\u{61c}'
        | '\u{200e}'
        | '\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}'
        | '\u{fdd0}'..='\u{fdef}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{feff}' => format!("⟨U+{:04X}⟩", u32::from(c)),
        _ if 0xfffe <= u32::from(c) & 0xffff => format!("⟨U+{:04X}⟩", u32::from(c)),
        _ => c.to_string(),
    };
    text.chars().map(show).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_is_harmless() {
        let text =
            "</pre><script>alert('&')</script>\0\u{1b}[2J\u{202e}evil\u{2028}\u{ffff}\r\n\té";
        let piece = Piece {
            kind: Kind::Scored,
            ids: 1,
            text: text.into(),
        };
        assert_eq!(
            self::piece(&piece).into_string(),
            "<bdi class=\"scored\" title=\"scored text\">&lt;/pre&gt;&lt;script&gt;alert('&amp;')&lt;/script&gt;\
             ␀␛[2J⟨U+202E⟩evil⟨U+2028⟩⟨U+FFFF⟩␍\n\té</bdi>"
        );
    }
}
