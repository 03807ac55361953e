//! Where in a recipe a mistake stands.
//!
//! Deserialization blames a value and not always the part of it that is wrong: a
//! table with a tag loses its places on the way. The parsed tree still has them.

use std::ops::Range;

use toml::Spanned;
use toml::de::DeValue;

use super::check::Finding;
use super::diagnose::{Diagnosis, Text};
use super::reword;

/// Says in the recipe's words what deserialization said in Rust's.
pub(super) fn explain(
    error: &toml::de::Error,
    tree: &Spanned<DeValue<'_>>,
    text: &Text<'_>,
) -> Diagnosis {
    let span = error.span().unwrap_or(tree.span());
    let (node, path) = node_at(tree, &key_path(error), &span);
    let reworded = reword::reword(error.message(), &path);
    let inner = match &reworded.culprit {
        reword::Culprit::Key(name) => find_key(node.get_ref(), name),
        reword::Culprit::Text(value) => find_text(node, value),
        reword::Culprit::Unknown => None,
    };
    let mut diagnosis = text.diagnose(reworded.message, inner.unwrap_or(span));
    diagnosis.hints.extend(reworded.hint);
    diagnosis
}

/// The keys that lead to the error; `toml` tells them in its display form alone.
fn key_path(error: &toml::de::Error) -> Vec<String> {
    let shown = error.to_string();
    let path = shown
        .strip_prefix(error.message())
        .and_then(|rest| rest.trim().strip_prefix("in `"))
        .and_then(|rest| rest.strip_suffix('`'))
        .unwrap_or_default();
    let keys = path.split('.').filter(|key| !key.is_empty());
    keys.map(String::from).collect()
}

/// The value at `keys`, which leave out the indexes of arrays; its full path.
fn node_at<'t, 'i>(
    tree: &'t Spanned<DeValue<'i>>,
    keys: &[String],
    span: &Range<usize>,
) -> (&'t Spanned<DeValue<'i>>, String) {
    let (mut node, mut path) = (tree, Vec::new());
    let mut keys = keys.iter();
    loop {
        let next = match node.get_ref() {
            DeValue::Array(array) => {
                let mut elements = array.iter().enumerate();
                let element = elements.find(|(_, element)| covers(element, span));
                element.map(|(index, element)| (index.to_string(), element))
            }
            DeValue::Table(table) => keys
                .next()
                .and_then(|key| Some((key.clone(), table.get(key.as_str())?))),
            _ => None,
        };
        let Some((key, child)) = next else {
            return (node, path.join("."));
        };
        path.push(key);
        node = child;
    }
}

fn covers(node: &Spanned<DeValue<'_>>, span: &Range<usize>) -> bool {
    let within = |outer: Range<usize>| outer.start <= span.start && span.end <= outer.end;
    within(node.span())
        || match node.get_ref() {
            DeValue::Table(table) => table
                .iter()
                .any(|(key, value)| within(key.span()) || covers(value, span)),
            DeValue::Array(array) => array.iter().any(|element| covers(element, span)),
            _ => false,
        }
}

fn find_key(node: &DeValue<'_>, name: &str) -> Option<Range<usize>> {
    match node {
        DeValue::Table(table) => match table.get_key_value(name) {
            Some((key, _)) => Some(key.span()),
            None => table
                .values()
                .find_map(|value| find_key(value.get_ref(), name)),
        },
        DeValue::Array(array) => array
            .iter()
            .find_map(|value| find_key(value.get_ref(), name)),
        _ => None,
    }
}

fn find_text(node: &Spanned<DeValue<'_>>, text: &str) -> Option<Range<usize>> {
    match node.get_ref() {
        DeValue::Table(table) => table.values().find_map(|value| find_text(value, text)),
        DeValue::Array(array) => array.iter().find_map(|value| find_text(value, text)),
        DeValue::String(string) => (string == text).then(|| node.span()),
        DeValue::Integer(number) => (number.as_str() == text).then(|| node.span()),
        DeValue::Float(number) => (number.as_str() == text).then(|| node.span()),
        _ => None,
    }
}

/// `policy = "none"` takes no keys, which serde does not check for such a variant.
pub(super) fn refuse_keys_beside_none(
    tree: &Spanned<DeValue<'_>>,
    text: &Text<'_>,
) -> Result<(), Diagnosis> {
    for stage in ["pretrain", "finetune"] {
        let pause = tree
            .get_ref()
            .get(stage)
            .and_then(|stage| stage.get_ref().get("pause"));
        let Some(DeValue::Table(table)) = pause.map(Spanned::get_ref) else {
            continue;
        };
        let policy = table
            .get("policy")
            .and_then(|policy| policy.get_ref().as_str());
        let extra = table.keys().find(|key| key.get_ref() != "policy");
        if let (Some("none"), Some(key)) = (policy, extra) {
            let name = key.get_ref();
            let message =
                format!("unknown key `{name}` in `{stage}.pause` with `policy = \"none\"`");
            let mut diagnosis = text.diagnose(message, key.span());
            let whole = format!("{stage}.pause={{policy=\"none\"}}");
            diagnosis
                .hints
                .push(format!("replace the whole table: `--set '{whole}'`"));
            return Err(diagnosis);
        }
    }
    Ok(())
}

/// Finds the nearest place to a finding's path that the recipe wrote.
pub(super) fn locate(finding: Finding, tree: &Spanned<DeValue<'_>>, text: &Text<'_>) -> Diagnosis {
    let (mut node, mut span) = (tree, None);
    for key in finding.path.split('.') {
        let next = match node.get_ref() {
            DeValue::Table(table) => table.get(key),
            DeValue::Array(array) => key.parse().ok().and_then(|index: usize| array.get(index)),
            _ => None,
        };
        let Some(child) = next else { break };
        (node, span) = (child, Some(child.span()));
    }
    let nowhere = finding.nowhere();
    let Some(span) = span else { return nowhere };
    Diagnosis {
        hints: nowhere.hints,
        ..text.diagnose(nowhere.message, span)
    }
}
