//! JSON lines, templates over them, compression.

use super::*;

#[test]
fn jsonl() {
    let folder = Folder::new()
        .with(
            "a.jsonl",
            "\u{feff}{\"text\": \"ä\"}\r\n\n  \n{\"x\": [{}], \"text\": \"\\ud83d\\ude00\"}",
        )
        .with("b.json.gz", [gzip(TWO), gzip(TWO)].concat())
        .with("c.ndjson.zst", [zst(TWO), zst(TWO)].concat())
        .with("d.jsonl", "");
    folder.pretrain(
        "path = '*.json*'",
        expect![[r#"
        a.jsonl:0 "ä"
        a.jsonl:3 "😀"
        b.json.gz:0 "a\n"
        b.json.gz:1 ""
        b.json.gz:2 "a\n"
        b.json.gz:3 ""
    "#]],
    );
    folder.pretrain(
        "path = 'c.ndjson.zst'",
        expect![[r#"
        c.ndjson.zst:0 "a\n"
        c.ndjson.zst:1 ""
        c.ndjson.zst:2 "a\n"
        c.ndjson.zst:3 ""
    "#]],
    );
}

/// Reads one file of JSON lines.
fn lines(name: &str, bytes: impl AsRef<[u8]>, expect: Expect) {
    let folder = Folder::new().with(name, bytes);
    folder.pretrain(&format!("path = '{name}'"), expect);
}

#[test]
fn a_line_that_is_no_object_is_named() {
    lines(
        "syntax.jsonl",
        "{\"text\": \"a\"}\n{\"text\": \"b\",}\n",
        expect![[r#"
            syntax.jsonl:0 "a"
            error: `syntax.jsonl`, line 2, column 14: not one JSON object: trailing comma
            hint: JSONL has one whole JSON object on each line
        "#]],
    );
    lines(
        "cut.jsonl",
        "{\"text\": \"a\"}\n{\"text\": \"b",
        expect![[r#"
            cut.jsonl:0 "a"
            error: `cut.jsonl`, line 2, column 11: not one JSON object: EOF while parsing a string
            hint: JSONL has one whole JSON object on each line
        "#]],
    );
    lines(
        "two.jsonl",
        "{\"text\": \"a\"} {}",
        expect![[r#"
            error: `two.jsonl`, line 1, column 15: not one JSON object: trailing characters
            hint: JSONL has one whole JSON object on each line
        "#]],
    );
}

#[test]
fn json_that_is_not_in_lines_is_refused() {
    lines(
        "array.json",
        "[{\"text\": \"a\"}]",
        expect![[r#"
            error: `array.json`, line 1, column 1: not one JSON object: invalid type: sequence, expected an object
            hint: JSONL has one whole JSON object on each line; `jq -c '.[]' OLD > NEW` makes that of a list
        "#]],
    );
    lines(
        "pretty.json",
        "{\n\"text\": \"a\"}",
        expect![[r#"
            error: `pretty.json`, line 1, column 1: not one JSON object: EOF while parsing an object
            hint: JSONL has one whole JSON object on each line
        "#]],
    );
}

#[test]
fn a_missing_field_names_the_fields_there_are() {
    lines(
        "missing.jsonl",
        "{\"text\": \"a\"}\n{\"b\": 1, \"txt\": \"b\"}\n",
        expect![[r#"
            missing.jsonl:0 "a"
            error: `missing.jsonl`, line 2: no field `text`; the fields are `b`, `txt`
            hint: `text = "FIELD"` names the field to pretrain on; templates name theirs as `{FIELD}`
        "#]],
    );
    lines(
        "empty.jsonl",
        "{}",
        expect![[r#"
            error: `empty.jsonl`, line 1: no field `text`; the fields are none
            hint: `text = "FIELD"` names the field to pretrain on; templates name theirs as `{FIELD}`
        "#]],
    );
}

#[test]
fn what_is_no_text_is_refused() {
    lines(
        "number.jsonl",
        "{\"text\": 7}\n",
        expect![[r#"
            error: `number.jsonl`, line 1: field `text`: expected a string, found `7`
        "#]],
    );
    lines(
        "null.jsonl",
        "{\"text\": null}\n",
        expect![[r#"
            error: `null.jsonl`, line 1: field `text`: expected a string, found null
            hint: leave such records out: `select = 'SELECT * FROM source WHERE "text" IS NOT NULL'`
        "#]],
    );
    lines(
        "list.jsonl",
        "[{\"text\": \"a\"}]\n",
        expect![[r#"
        error: `list.jsonl`, line 1, column 1: not one JSON object: invalid type: sequence, expected an object
        hint: JSONL has one whole JSON object on each line; `jq -c '.[]' OLD > NEW` makes that of a list
    "#]],
    );
    lines(
        "utf16.jsonl",
        b"\xff\xfe{\0\"\0",
        expect![[r#"
        error: `utf16.jsonl`, line 1: not UTF-8 at byte 0 of the text
        hint: it is in another encoding, mostly UTF-16: `iconv -f UTF-16 -t UTF-8 OLD > NEW`
    "#]],
    );
    lines(
        "utf8.jsonl",
        b"{\"text\": \"a\"}\n{\"text\": \"\xff\"}\n",
        expect![[r#"
            utf8.jsonl:0 "a"
            error: `utf8.jsonl`, line 2: not UTF-8 at byte 24 of the text
            hint: convert the file first: `iconv -f LATIN1 -t UTF-8 OLD > NEW`
        "#]],
    );
}

#[test]
fn templates_reach_into_records() {
    let line = r#"{"q": {"stem": "Why", "n": [1, {"t": "x"}]}, "a.b": true, "n": 2.50, "big": 12345678901234567890, "no": null}"#;
    let folder = Folder::new().with("a.jsonl", line);
    folder.finetune(
        "path = 'a.jsonl'\nprefix = 'Q: {q.stem} {q.n.0} {q.n.1.t}'\ntarget = '{a.b} {n} {big} {{}}'",
        expect![[r#"
            a.jsonl:0 "Q: Why 1 x" -> "true 2.5 12345678901234567890 {}"
        "#]],
    );
    let template = |target| format!("path = 'a.jsonl'\nprefix = ''\ntarget = '{target}'");
    folder.finetune(
        &template("{q.steam}"),
        expect![[r#"
            error: `a.jsonl`, line 1: no field `q.steam`; the fields are `q`, `a.b`, `n`, `big`, `no`
            hint: `text = "FIELD"` names the field to pretrain on; templates name theirs as `{FIELD}`
        "#]],
    );
    folder.finetune(&template("{q.n}"), expect![[r#"
        error: `a.jsonl`, line 1: field `q.n`: expected a string, number or truth value, found an array
    "#]]);
    folder.finetune(
        &template("{no}"),
        expect![[r#"
            error: `a.jsonl`, line 1: field `no`: expected a string, number or truth value, found null
            hint: leave such records out: `select = 'SELECT * FROM source WHERE "no" IS NOT NULL'`
        "#]],
    );
    folder.finetune(
        &template("{no"),
        expect![[r#"
            error: `sources[0]`: template `target`: `{` without its `}` at byte 0 of `{no`
            hint: `{field}` stands for a field; write `{{` and `}}` for braces
        "#]],
    );
    folder.pretrain(
        "path = 'a.jsonl'\ntext = 'q.stem'",
        expect![[r#"
        a.jsonl:0 "Why"
    "#]],
    );
}

#[test]
fn damaged_compressed_files() {
    let long: String = (0..5_000)
        .map(|i| format!("{{\"text\": \"{i}\"}}\n"))
        .collect();
    let cut = |bytes: Vec<u8>| bytes[..bytes.len() - 9].to_vec();
    let folder = Folder::new()
        .with("cut.jsonl.gz", cut(gzip(&long)))
        .with("cut.jsonl.zst", cut(zst(&long)))
        .with("not.txt.gz", "plain text")
        .with("not.txt.zst", "plain text")
        .with("empty.txt.gz", "")
        .with("empty.txt.zst", "");
    for (name, expect) in [
        (
            "cut.jsonl.gz",
            expect![[r#"
            error: cannot decompress `cut.jsonl.gz` (gzip)
              incomplete deflate stream
            hint: the file is damaged, cut short, or not what its name says: copy it again
        "#]],
        ),
        (
            "cut.jsonl.zst",
            expect![[r#"
            error: cannot decompress `cut.jsonl.zst` (zstd)
              incomplete frame
            hint: the file is damaged, cut short, or not what its name says: copy it again
        "#]],
        ),
        (
            "not.txt.gz",
            expect![[r#"
            error: cannot decompress `not.txt.gz` (gzip)
              invalid gzip header
            hint: the file is damaged, cut short, or not what its name says: copy it again
        "#]],
        ),
        (
            "not.txt.zst",
            expect![[r#"
            error: cannot decompress `not.txt.zst` (zstd)
              Unknown frame descriptor
            hint: the file is damaged, cut short, or not what its name says: copy it again
        "#]],
        ),
        (
            "empty.txt.gz",
            expect![[r#"
            error: cannot decompress `empty.txt.gz` (gzip)
              unexpected end of file
            hint: the file is damaged, cut short, or not what its name says: copy it again
        "#]],
        ),
        (
            "empty.txt.zst",
            expect![[r#"
            error: cannot decompress `empty.txt.zst` (zstd)
              incomplete frame
            hint: the file is damaged, cut short, or not what its name says: copy it again
        "#]],
        ),
    ] {
        let found = folder.read(&format!("path = '{name}'"), Purpose::Pretrain);
        let error = found.find("error").unwrap_or(0);
        expect.assert_eq(&found[error..]);
    }
}
