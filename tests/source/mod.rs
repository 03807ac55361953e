//! Reading Rust just far enough: code without comments and strings, the modules it
//! names, and where functions begin and end.

use std::collections::BTreeSet;

/// Blanks comments, strings and characters; lines stay where they are.
pub fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let blanked = comment(rest)
            .or_else(|| string(rest, &code))
            .or_else(|| character(rest));
        match blanked {
            Some(length) => {
                let (gone, left) = rest.split_at(length);
                code.extend(gone.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
                rest = left;
            }
            None => {
                code.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    code
}

/// The modules at the root of the crate that code names: `a` of `crate::a::b` and of
/// `use crate::{a::b, c}`.
pub fn mentions(code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, marker) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(is_word) {
            continue;
        }
        let rest = &code[at + marker.len()..];
        match rest.strip_prefix('{') {
            None => drop(names.insert(word(rest))),
            Some(group) => names.extend(heads(group)),
        }
    }
    names.remove("");
    names
}

/// A function and its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Where it begins, from 1.
    pub line: usize,
    /// From `fn` to the closing brace.
    pub lines: usize,
}

/// The functions with a body.
pub fn functions(code: &str) -> Vec<Function> {
    let mut functions = Vec::new();
    for (at, marker) in code.match_indices("fn ") {
        let name = word(&code[at + marker.len()..]);
        let before = code[..at].chars().next_back();
        if name.is_empty() || before.is_some_and(is_word) {
            continue;
        }
        let Some(open) = body(&code[at..]) else {
            continue;
        };
        let Some(close) = closing(&code[at + open..]) else {
            continue;
        };
        let newlines = |text: &str| text.matches('\n').count();
        functions.push(Function {
            name,
            line: newlines(&code[..at]) + 1,
            lines: newlines(&code[at..at + open + close]) + 1,
        });
    }
    functions
}

/// Where the body of the function that `code` begins with opens, if it has one.
fn body(code: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            '{' if depth == 0 => return Some(at),
            ';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// Where the brace that `code` begins with is closed.
fn closing(code: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

/// The first words of the parts of a group, up to its closing brace.
fn heads(group: &str) -> Vec<String> {
    let (mut depth, mut start) = (0, true);
    let mut heads = Vec::new();
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => start = true,
            _ if start && is_word(c) => {
                heads.push(word(&group[at..]));
                start = false;
            }
            _ => {}
        }
    }
    heads
}

fn comment(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if !text.starts_with("/*") {
        return None;
    }
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += 1;
        }
    }
    Some(text.len())
}

/// The length of a string that `text` begins with, with what stands before its quote.
fn string(text: &str, before: &str) -> Option<usize> {
    if before.chars().next_back().is_some_and(is_word) {
        return None;
    }
    let body = text.trim_start_matches(['b', 'c']);
    let prefix = text.len() - body.len();
    if 1 < prefix {
        return None;
    }
    if let Some(raw) = body.strip_prefix('r') {
        let quoted = raw.trim_start_matches('#');
        let hashes = "#".repeat(raw.len() - quoted.len());
        let inside = quoted.strip_prefix('"')?;
        let end = format!("\"{hashes}");
        let length = inside.find(&end).map_or(inside.len(), |at| at + end.len());
        return Some(text.len() - inside.len() + length);
    }
    let inside = body.strip_prefix('"')?;
    let mut escaped = false;
    for (at, c) in inside.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(text.len() - inside.len() + at + 1),
            _ => {}
        }
    }
    Some(text.len())
}

/// The length of a character literal; a lifetime is none.
fn character(text: &str) -> Option<usize> {
    let inside = text.strip_prefix('\'')?;
    if let Some(escape) = inside.strip_prefix('\\') {
        let skipped = escape.chars().next()?.len_utf8();
        return Some(2 + skipped + escape[skipped..].find('\'')? + 1);
    }
    let length = inside.chars().next()?.len_utf8();
    inside[length..].starts_with('\'').then_some(1 + length + 1)
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| is_word(*c)).collect()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_strings_and_characters_are_no_code() {
        let check = |text: &str, expected: &str| {
            assert_eq!(code_of(text).replace(' ', ""), expected, "{text}");
        };
        check("a // b {\nc", "a\nc");
        check("a /* b /* c */ d */ e", "ae");
        check(r#"f("\"{", x)"#, "f(,x)");
        check("f(r#\"\"{\"#, b\"{\", br\"{\")", "f(,,)");
        check("m('{', '\\'', '\\u{7f}', b'{')", "m(,,,b)");
        check("fn f<'a>(x: &'a str) {}", "fnf<'a>(x:&'astr){}");
        check("for r in \"x\".chars() {}", "forrin.chars(){}");
    }

    #[test]
    fn modules_are_found_in_paths_and_groups() {
        let check = |text: &str, expected: &[&str]| {
            let found: Vec<_> = mentions(&code_of(text)).into_iter().collect();
            assert_eq!(found, expected, "{text}");
        };
        check(
            "use crate::fs;\nlet x = crate::rng::Key::new(1);",
            &["fs", "rng"],
        );
        check(
            "use crate::{fs, pause::{self, place}, token::{A, B}};",
            &["fs", "pause", "token"],
        );
        check("// crate::fs\n\"crate::rng\"", &[]);
        check("pub(crate) fn f() {} subcrate::x", &[]);
    }

    #[test]
    fn functions_are_measured_from_fn_to_brace() {
        let text = "trait T { fn a(); }\nfn b(x: [u8; 4]) -> u8 {\n  if x { 1 } else { 2 }\n}\nlet f: fn (u8);";
        let found = functions(&code_of(text));
        let expected = Function {
            name: "b".into(),
            line: 2,
            lines: 3,
        };
        assert_eq!(found, [expected]);
    }
}
