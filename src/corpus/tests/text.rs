//! Plain text.

use proptest::prelude::*;

use super::*;

#[test]
fn text() {
    let exact = "\u{feff}\na \r\n\tb\n\n\nc\r\n\r\nd\re";
    let folder = Folder::new()
        .with("a.txt", exact)
        .with("b.txt.gz", gzip("x\ny\n"))
        .with("c.md.zst", zst("x\ny\n"))
        .with("d.txt", "");
    folder.pretrain(
        "path = '*.*'",
        expect![[r#"
        a.txt:0 "\u{feff}\na \r\n\tb\n\n\nc\r\n\r\nd\re"
        b.txt.gz:0 "x\ny\n"
        c.md.zst:0 "x\ny\n"
        d.txt:0 ""
    "#]],
    );
    folder.pretrain(
        "path = '*.*'\ndocument = 'line'",
        expect![[r#"
        a.txt:0 "\u{feff}"
        a.txt:1 "a "
        a.txt:2 "\tb"
        a.txt:5 "c"
        a.txt:7 "d\re"
        b.txt.gz:0 "x"
        b.txt.gz:1 "y"
        c.md.zst:0 "x"
        c.md.zst:1 "y"
    "#]],
    );
    folder.pretrain(
        "path = '*.*'\ndocument = 'paragraph'",
        expect![[r#"
        a.txt:0 "\u{feff}\na \r\n\tb"
        a.txt:1 "c"
        a.txt:2 "d\re"
        b.txt.gz:0 "x\ny"
        c.md.zst:0 "x\ny"
    "#]],
    );
    folder.finetune(
        "path = 'b.txt.gz'\nprefix = '>'\ntarget = '{text}'",
        expect![[r#"
            b.txt.gz:0 ">" -> "x\ny\n"
        "#]],
    );
}

#[test]
fn text_errors() {
    let folder = Folder::new().with("a.txt", b"ok\n\nab\xe4\n");
    for unit in ["file", "line", "paragraph"] {
        let found = folder.read(
            &format!("path = 'a.txt'\ndocument = '{unit}'"),
            Purpose::Pretrain,
        );
        let error = found
            .lines()
            .find(|line| line.starts_with("error"))
            .unwrap();
        assert_eq!(
            error,
            "error: `a.txt`, line 3: not UTF-8 at byte 6 of the text"
        );
    }
    folder.pretrain(
        "path = 'a.txt'\ntext = 'body'",
        expect![[r#"
            error: `sources[0]`: no field `body` in the text file `a.txt`; its fields are `text`
        "#]],
    );
}

#[test]
fn lines_have_a_longest_length() {
    let lines = |text: &str, limit| {
        let folder = Folder::new().with("a.txt", text);
        let path = folder.0.path().join("a.txt");
        let input = decompress::Input::open(&path, "a.txt", Compression::None).unwrap();
        let mut lines = crate::corpus::text::Lines::new(input, limit);
        let mut found = Vec::new();
        loop {
            match lines.next() {
                Ok(Some(line)) => found.push(line.text.to_owned()),
                Ok(None) => return Ok(found),
                Err(error) => return Err(error.to_string()),
            }
        }
    };
    assert_eq!(lines("abc\r\nabc\nabc", 3).unwrap(), ["abc", "abc", "abc"]);
    let long = "`a.txt`, line 2: longer than 3 bytes, the most that one document may have";
    for text in ["a\nabcd\n", "a\nabcd\r\n", "a\nabcdefghi", "a\nabcdä"] {
        assert_eq!(lines(text, 3).unwrap_err(), long, "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Lines and paragraphs agree with a naive reading of the whole text.
    #[test]
    fn text_units_agree_with_the_naive_reading(text in "[ab\r\n]{0,30}") {
        let folder = Folder::new().with("a.txt", &text);
        let documents = |unit| {
            let source = toml::from_str(&format!("path = 'a.txt'\ndocument = '{unit}'")).unwrap();
            let corpus = Corpus::resolve(&[source], folder.0.path(), Purpose::Pretrain).unwrap();
            let documents = corpus.documents(0..1).map(Result::unwrap);
            documents.map(|d| (d.id.row, d.text)).collect::<Vec<_>>()
        };
        fn bare(line: &str) -> &str {
            line.strip_suffix('\n').map_or(line, |line| line.strip_suffix('\r').unwrap_or(line))
        }
        let plain = |(row, text): (usize, &str)| (row as u64, Text::Plain(text.into()));
        let lines: Vec<_> = text.split_inclusive('\n').collect();
        let full = lines.iter().map(|line| bare(line)).enumerate().filter(|(_, line)| !line.is_empty());
        let blocks: Vec<_> = lines
            .split(|line| bare(line).is_empty())
            .filter(|block| !block.is_empty())
            .map(|block| block.concat())
            .collect();
        let paragraphs = blocks.iter().map(|block| bare(block)).enumerate();
        prop_assert_eq!(documents("file"), vec![plain((0, &text))]);
        prop_assert_eq!(documents("line"), full.map(plain).collect::<Vec<_>>());
        prop_assert_eq!(documents("paragraph"), paragraphs.map(plain).collect::<Vec<_>>());
    }
}
