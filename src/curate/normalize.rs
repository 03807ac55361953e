//! Normalisation: what is done to a document's text before anything judges it.
//!
//! The steps have one order: line ends, control characters, Unicode form,
//! white-space. Each later step keeps what an earlier one promised, so that
//! normalising twice is normalising once.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick, is_nfkc_quick};

use crate::document::Text;

/// What is normalised; what is left out stays as the source has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Normalize {
    /// The Unicode normalisation form (UAX #15) that text is brought into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unicode: Option<Form>,
    /// Makes every `\r\n` and every `\r` a `\n`.
    #[serde(default)]
    pub newlines: bool,
    /// Removes control characters (Unicode `Cc`) apart from tab, `\n` and `\r`, and U+FEFF.
    #[serde(default)]
    pub control: bool,
    /// Removes white-space at the end of every line, at the start of a document and at its
    /// end. The border of prefix and target is neither.
    #[serde(default)]
    pub trim: bool,
}

/// A Unicode normalisation form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Composed: one character where Unicode has one. Text looks the same.
    Nfc,
    /// Composed, and compatibility characters replaced: `ﬁ` becomes `fi`, `²` becomes `2`.
    Nfkc,
}

/// Which part of a document a text is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    Prefix,
    Target,
}

impl Normalize {
    /// Whether it leaves every text as it is.
    pub fn does_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Normalises a document's text.
    pub fn apply(&self, text: Text) -> Text {
        match text {
            Text::Plain(text) => Text::Plain(self.part(text, Part::Whole)),
            Text::Example { prefix, target } => Text::Example {
                prefix: self.part(prefix, Part::Prefix),
                target: self.part(target, Part::Target),
            },
        }
    }

    fn part(&self, mut text: String, part: Part) -> String {
        if self.newlines && text.contains('\r') {
            text = text.replace("\r\n", "\n").replace('\r', "\n");
        }
        if self.control {
            text.retain(|c| !is_removed(c));
        }
        if let Some(form) = self.unicode {
            text = form.of(text);
        }
        if self.trim {
            text = trim(&text, part);
        }
        text
    }
}

impl Form {
    fn of(self, text: String) -> String {
        let quick = match self {
            _ if text.is_ascii() => IsNormalized::Yes,
            Self::Nfc => is_nfc_quick(text.chars()),
            Self::Nfkc => is_nfkc_quick(text.chars()),
        };
        match (quick, self) {
            (IsNormalized::Yes, _) => text,
            (_, Self::Nfc) => text.nfc().collect(),
            (_, Self::Nfkc) => text.nfkc().collect(),
        }
    }
}

fn is_removed(c: char) -> bool {
    (c.is_control() && !matches!(c, '\t' | '\n' | '\r')) || c == '\u{feff}'
}

fn trim(text: &str, part: Part) -> String {
    let text = match part {
        Part::Whole => text.trim(),
        Part::Prefix => text.trim_start(),
        Part::Target => text.trim_end(),
    };
    let mut lines: Vec<&str> = text.split('\n').collect();
    let last = lines.pop().unwrap_or_default();
    let mut trimmed = String::with_capacity(text.len());
    for line in lines {
        trimmed.push_str(line.trim_end());
        trimmed.push('\n');
    }
    trimmed + last
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: Normalize = Normalize {
        unicode: Some(Form::Nfkc),
        newlines: true,
        control: true,
        trim: true,
    };

    fn plain(normalize: Normalize, text: &str) -> String {
        match normalize.apply(Text::Plain(text.into())) {
            Text::Plain(text) => text,
            Text::Example { .. } => unreachable!(),
        }
    }

    #[test]
    fn each_key_does_its_own_work() {
        let off = Normalize::default();
        let text = "\u{feff} e\u{301}\u{fb01} \r\na\u{0}\tb\rc ";
        assert_eq!(plain(off, text), text);
        let nfc = Normalize {
            unicode: Some(Form::Nfc),
            ..off
        };
        assert_eq!(
            plain(nfc, text),
            "\u{feff} \u{e9}\u{fb01} \r\na\u{0}\tb\rc "
        );
        let nfkc = Normalize {
            unicode: Some(Form::Nfkc),
            ..off
        };
        assert_eq!(plain(nfkc, text), "\u{feff} \u{e9}fi \r\na\u{0}\tb\rc ");
        let newlines = Normalize {
            newlines: true,
            ..off
        };
        assert_eq!(
            plain(newlines, text),
            "\u{feff} e\u{301}\u{fb01} \na\u{0}\tb\nc "
        );
        let control = Normalize {
            control: true,
            ..off
        };
        assert_eq!(plain(control, text), " e\u{301}\u{fb01} \r\na\tb\rc ");
        let trim = Normalize { trim: true, ..off };
        assert_eq!(plain(trim, " \n a  \n\n b \n c \n "), "a\n\n b\n c");
        assert_eq!(plain(ALL, text), "\u{e9}fi\na\tb\nc");
        assert_eq!(plain(ALL, " \n"), "");
    }

    #[test]
    fn the_border_of_an_example_keeps_its_space() {
        let text = Text::Example {
            prefix: " Q: a \nA: ".into(),
            target: " b \nc ".into(),
        };
        let expected = Text::Example {
            prefix: "Q: a\nA: ".into(),
            target: " b\nc".into(),
        };
        assert_eq!(ALL.apply(text), expected);
    }

    /// Text in which everything that normalising looks at is frequent.
    fn text() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "a",
            "e\u{301}",
            "\u{301}",
            "\u{fb01}",
            "\u{212b}",
            "\r",
            "\n",
            "\r\n",
            " ",
            "\t",
            "\u{0}",
            "\u{85}",
            "\u{a0}",
            "\u{feff}",
            "\u{2028}",
            "\u{1100}\u{1161}",
            "\u{ac00}",
            "\u{3000}",
            "x\u{323}\u{307}",
            "\u{200b}",
        ]);
        prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn normalising_twice_is_normalising_once(
            text in text(),
            unicode in prop::sample::select(vec![None, Some(Form::Nfc), Some(Form::Nfkc)]),
            (newlines, control, trim) in any::<(bool, bool, bool)>(),
        ) {
            let normalize = Normalize { unicode, newlines, control, trim };
            let once = plain(normalize, &text);
            prop_assert_eq!(plain(normalize, &once), once.clone());
            // The quick check must not decide otherwise than the form itself.
            match unicode {
                Some(Form::Nfc) => prop_assert_eq!(once.nfc().collect::<String>(), once),
                Some(Form::Nfkc) => prop_assert_eq!(once.nfkc().collect::<String>(), once),
                None => {}
            }
        }
    }
}
