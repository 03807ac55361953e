//! Parquet and `select`.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, DictionaryArray, Int64Array, LargeStringArray, ListArray, StringArray,
    StringViewArray, StructArray,
};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type};

use super::*;

fn strings(values: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

/// A table with a column of every type that can be text, and a list.
fn table() -> Folder {
    let nested = StructArray::from(vec![(
        Arc::new(Field::new("stem", DataType::Utf8, true)),
        strings(&[Some("s"), None]),
    )]);
    let list = ListArray::from_iter_primitive::<Int64Type, _, _>([Some([Some(1)]), None]);
    let dictionary: DictionaryArray<Int32Type> = ["d", "e"].into_iter().collect();
    Folder::new().table(
        "a.parquet",
        vec![
            ("text", strings(&[Some("x\r\n"), Some("")])),
            ("large", Arc::new(LargeStringArray::from(vec!["l", "m"]))),
            ("view", Arc::new(StringViewArray::from(vec!["v", "w"]))),
            ("word", Arc::new(dictionary)),
            ("n", Arc::new(Int64Array::from(vec![3, -4]))),
            ("yes", Arc::new(BooleanArray::from(vec![true, false]))),
            ("q", Arc::new(nested)),
            ("list", Arc::new(list)),
        ],
    )
}

/// Finetuning on the table, with this template of a target.
fn target(template: &str) -> String {
    format!("path = 'a.parquet'\nprefix = ''\ntarget = '{template}'")
}

#[test]
fn parquet_columns_are_text() {
    let table = table();
    table.pretrain(
        "path = 'a.parquet'",
        expect![[r#"
            a.parquet:0 "x\r\n"
            a.parquet:1 ""
        "#]],
    );
    table.finetune(
        &target("{text} {large} {view} {word} {n} {yes}"),
        expect![[r#"
            a.parquet:0 "" -> "x\r\n l v d 3 true"
            a.parquet:1 "" -> " m w e -4 false"
        "#]],
    );
    table.finetune(&target("{q.stem}"), expect![[r#"
        a.parquet:0 "" -> "s"
        error: `a.parquet`, row 1 (from 0): field `q.stem`: expected a string, number or truth value, found null
        hint: leave such records out: `select = 'SELECT * FROM source WHERE "q.stem" IS NOT NULL'`
    "#]]);
}

#[test]
fn parquet_without_the_text_asked_for_says_what_there_is() {
    let table = table().table("null.parquet", vec![("text", strings(&[Some("a"), None]))]);
    table.finetune(&target("{q.steam}"), expect![[r#"
        error: `a.parquet`, row 0 (from 0): no field `q.steam`; the fields are `text`, `large`, `view`, `word`, `n`, `yes`, `q`, `list`
        hint: `text = "FIELD"` names the field to pretrain on; templates name theirs as `{FIELD}`
    "#]]);
    table.finetune(&target("{list}"), expect![[r#"
        error: `a.parquet`, row 0 (from 0): field `list`: expected a string, number or truth value, found a list of numbers
    "#]]);
    table.finetune(&target("{nothing}"), expect![[r#"
        error: `a.parquet`: no field `nothing`; the fields are `text`, `large`, `view`, `word`, `n`, `yes`, `q`, `list`
        hint: `text = "FIELD"` names the field to pretrain on; templates name theirs as `{FIELD}`
    "#]]);
    table.pretrain(
        "path = 'null.parquet'",
        expect![[r#"
            null.parquet:0 "a"
            error: `null.parquet`, row 1 (from 0): field `text`: expected a string, found null
            hint: leave such records out: `select = 'SELECT * FROM source WHERE "text" IS NOT NULL'`
        "#]],
    );
}

#[test]
fn files_that_only_look_like_parquet_are_refused() {
    let folder = Folder::new()
        .with("not.parquet", "plain text that is long enough")
        .with("a.parquet.gz", "");
    folder.pretrain(
        "path = 'not.parquet'",
        expect![[r#"
            error: cannot read `not.parquet` as Parquet
              Parquet error: Invalid Parquet file. Corrupt footer
        "#]],
    );
    folder.pretrain("path = 'a.parquet.gz'", expect![[r#"
        error: `sources[0]`: `a.parquet.gz`: a Parquet file that is compressed as a whole cannot be read
        hint: decompress it; Parquet files are compressed inside
    "#]]);
}

#[test]
fn parquet_batches_keep_the_order() {
    let values: Vec<String> = (0..1_000).map(|i| i.to_string()).collect();
    let folder = Folder::new().table(
        "a.parquet",
        vec![("text", Arc::new(StringArray::from(values.clone())))],
    );
    let found = folder.read("path = 'a.parquet'", Purpose::Pretrain);
    let expected: String = (0..1_000)
        .map(|i| format!("a.parquet:{i} \"{i}\"\n"))
        .collect();
    assert_eq!(found, expected);
}

const NUMBERED: &str = "{\"text\": \"one\", \"n\": 1}\n{\"text\": \"two\", \"n\": 2}\n{\"text\": \"three\", \"n\": 3}\n";

fn numbered() -> Folder {
    Folder::new().with("a.jsonl", NUMBERED).table(
        "d.parquet",
        vec![
            ("text", strings(&[Some("one"), Some("two"), None])),
            ("n", Arc::new(Int64Array::from(vec![1, 2, 3]))),
        ],
    )
}

fn select(path: &str, query: &str) -> String {
    format!("path = '{path}'\nselect = \"{query}\"")
}

#[test]
fn select_filters_every_kind_of_file() {
    let folder = numbered()
        .with("b.jsonl.gz", gzip(NUMBERED))
        .with("c.jsonl.zst", zst(NUMBERED));
    folder.pretrain(
        &select(
            "[abcd].*",
            "SELECT text FROM source WHERE n < 3 AND length(text) > 2",
        ),
        expect![[r#"
            a.jsonl:0 "one"
            a.jsonl:1 "two"
            b.jsonl.gz:0 "one"
            b.jsonl.gz:1 "two"
            c.jsonl.zst:0 "one"
            c.jsonl.zst:1 "two"
            d.parquet:0 "one"
            d.parquet:1 "two"
        "#]],
    );
}

#[test]
fn files_without_rows_give_none_whatever_is_selected() {
    let folder = numbered()
        .with("b.jsonl", "")
        .with("c.jsonl", "\n\n")
        .table("e.parquet", vec![("text", strings(&[]))]);
    folder.pretrain(
        &select("[abce].*", "SELECT text FROM source WHERE n < 2"),
        expect![[r#"
            a.jsonl:0 "one"
        "#]],
    );
}

#[test]
fn select_computes_sorts_and_names_columns() {
    let folder = numbered();
    folder.pretrain(
        &select(
            "a.jsonl",
            "SELECT upper(text) AS text FROM source ORDER BY n DESC LIMIT 2",
        ),
        expect![[r#"
            a.jsonl:0 "THREE"
            a.jsonl:1 "TWO"
        "#]],
    );
    folder.finetune(
        &(select(
            "a.jsonl",
            "SELECT n, text AS word, n > 1 AS big FROM source",
        ) + "\nprefix = '{n} {big}'\ntarget = '{word}'"),
        expect![[r#"
            a.jsonl:0 "1 false" -> "one"
            a.jsonl:1 "2 true" -> "two"
            a.jsonl:2 "3 true" -> "three"
        "#]],
    );
}

#[test]
fn selected_rows_must_have_text() {
    let folder = numbered();
    folder.pretrain(
        &select("d.parquet", "SELECT text FROM source"),
        expect![[r#"
            d.parquet:0 "one"
            d.parquet:1 "two"
            error: `d.parquet`, row 2 (from 0): field `text`: expected a string, found null
            hint: leave such records out: `select = 'SELECT * FROM source WHERE "text" IS NOT NULL'`
        "#]],
    );
    folder.pretrain(
        &select("a.jsonl", "SELECT n FROM source"),
        expect![[r#"
            error: `a.jsonl`, row 0 (from 0): no field `text`; the fields are `n`
            hint: `text = "FIELD"` names the field to pretrain on; templates name theirs as `{FIELD}`
        "#]],
    );
    folder.pretrain(
        &select("a.jsonl", "SELECT count(*) AS text FROM source"),
        expect![[r#"
            error: `a.jsonl`, row 0 (from 0): field `text`: expected a string, found `3`
        "#]],
    );
}

#[test]
fn queries_that_cannot_run_say_why() {
    let folder = numbered().with("bad.jsonl", "{\"text\": \"one\", \"n\": 1}\n{\"text\": \n");
    folder.pretrain(
        &select("a.jsonl", "SELECT nothing FROM source"),
        expect![[r#"
            error: cannot run the query of `select` on `a.jsonl`, whose columns are `text`, `n`: not found: unable to find column "nothing"
        "#]],
    );
    folder.pretrain(&select("a.jsonl", "SELEKT"), expect![[r#"
        error: cannot run the query of `select` on `a.jsonl`, whose columns are `text`, `n`: sql parser error: Expected: an SQL statement, found: SELEKT at Line: 1, Column: 1
    "#]]);
    folder.pretrain(
        &select("bad.jsonl", "SELECT text FROM source"),
        expect![[r#"
            error: `bad.jsonl`, line 2, column 9: not one JSON object: EOF while parsing a value
            hint: JSONL has one whole JSON object on each line
        "#]],
    );
}

#[test]
fn queries_need_an_order_where_they_group() {
    numbered().pretrain(
        &select("a.jsonl", "SELECT text FROM source GROUP BY text"),
        expect![[r#"
            error: `sources[0]`: the query of `select` has `GROUP BY` without `ORDER BY`: the order of its rows is not fixed
            hint: end the query with `ORDER BY` over columns that tell all rows apart
        "#]],
    );
    assert!(select::check("SELECT text FROM source WHERE text = 'join us'").is_ok());
    assert!(select::check("SELECT a, count(*) FROM source group\n by a order by a").is_ok());
}

#[test]
fn select_sees_nested_fields_and_columns_of_one_type() {
    let mixed = Folder::new().with("a.jsonl", "{\"n\": 1}\n{}\n{\"n\": 2.5}\n{\"n\": \"x\"}\n");
    mixed.pretrain(&select("a.jsonl", "SELECT n FROM source"), expect![[r#"
        error: `a.jsonl`, line 4: field `n`: expected a number, as before in this column, found a string
    "#]]);
    let nested = Folder::new().with(
        "a.jsonl",
        "{\"q\": {\"stem\": \"a\"}}\n{\"q\": null}\n{\"q\": {\"stem\": \"b\", \"n\": [1]}}\n",
    );
    nested.pretrain(
        "path = 'a.jsonl'\nselect = 'SELECT \"q.stem\" AS text FROM source WHERE \"q.stem\" IS NOT NULL'",
        expect![[r#"
            a.jsonl:0 "a"
            a.jsonl:1 "b"
        "#]],
    );
}
