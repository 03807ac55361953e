//! What the keys that choose documents must satisfy.

use super::{At, Outcome, Purpose, check_sources, plain_name};
use crate::curate::contamination::EVALUATIONS_MAX;
use crate::curate::{Decontaminate, Filter};
use crate::recipe::{Recipe, Stage};

/// Checks `normalize`, `filter` and `decontaminate` of a stage.
pub(super) fn check(at: &At, stage: &Stage, recipe: &Recipe) -> Outcome {
    if stage
        .normalize
        .is_some_and(|normalize| normalize.does_nothing())
    {
        let finding = at.fail("normalize", "normalises nothing");
        return Err(
            finding.hint("for example `normalize = { unicode = \"nfc\", newlines = true }`")
        );
    }
    if let Some(filter) = &stage.filter {
        check_filter(at, filter)?;
    }
    match &stage.decontaminate {
        Some(settings) => check_decontaminate(at, settings, recipe),
        None => Ok(()),
    }
}

fn check_filter(at: &At, filter: &Filter) -> Outcome {
    let inside = at.inside("filter");
    let limits = filter.clone().spelt_out();
    if limits == Filter::default() {
        let finding = at.fail("filter", "has no limits");
        return Err(finding.hint(
            "for example `filter = { preset = \"gopher\" }` or `filter = { min_words = 20 }`",
        ));
    }
    for (key, share) in limits.shares() {
        inside.within(key, share, (0.0, 1.0))?;
    }
    for (key, rate) in limits.rates() {
        inside.within(key, rate, (0.0, f64::MAX))?;
    }
    let ranges = [
        ("min_bytes", limits.min_bytes, limits.max_bytes),
        ("min_words", limits.min_words, limits.max_words),
    ];
    for (key, least, most) in ranges {
        if let (Some(least), Some(most)) = (least, most) {
            inside.at_most(key, least, most)?;
        }
    }
    if let (Some(least), Some(most)) = (limits.min_word_length, limits.max_word_length) {
        inside.within("min_word_length", least, (0.0, most))?;
    }
    if limits.stop_words.is_some() && limits.min_stop_words.is_none() {
        let finding = inside.fail("stop_words", "means nothing without `min_stop_words`");
        return Err(finding.hint("Gopher asks for `min_stop_words = 2`"));
    }
    if limits.short_line.is_some() && limits.max_short_lines.is_none() {
        let finding = inside.fail("short_line", "means nothing without `max_short_lines`");
        return Err(finding.hint("FineWeb asks for `max_short_lines = 0.67`"));
    }
    Ok(())
}

fn check_decontaminate(at: &At, settings: &Decontaminate, recipe: &Recipe) -> Outcome {
    let at = at.inside("decontaminate");
    at.at_least("ngram", settings.ngram as u64, 2)?;
    at.at_least("min_words", settings.min_words as u64, 1)?;
    let Some(sets) = &settings.against else {
        if recipe.eval.iter().any(|eval| !eval.tasks.is_empty()) {
            return Ok(());
        }
        let finding = at.fail(
            "against",
            "is missing, and there are no `eval.tasks` in its place",
        );
        return Err(finding.hint("for example `against = [{ name = \"test\", sources = [{ path = \"test.jsonl\", text = \"question\" }] }]`"));
    };
    at.at_least("against", sets.len() as u64, 1)?;
    at.at_most("against", sets.len() as u64, EVALUATIONS_MAX as u64)?;
    for (index, set) in sets.iter().enumerate() {
        let at = at.inside(&format!("against.{index}"));
        plain_name(&at, &set.name)?;
        if sets.iter().take(index).any(|other| other.name == set.name) {
            return Err(at.fail(
                "name",
                format!("is `{}`, as that of an earlier set", set.name),
            ));
        }
        let examples = set
            .sources
            .iter()
            .any(|source| source.prefix.is_some() || source.target.is_some());
        let purpose = if examples {
            Purpose::Finetune
        } else {
            Purpose::Pretrain
        };
        check_sources(&at, &set.sources, purpose)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::recipe::{Error, Recipe};

    const GOOD: &str = r#"
        tokenizer = { train = { vocab_size = 300 } }
        [pretrain]
        sources = [{ path = "a.jsonl" }]
        pack = { seq_len = 64 }
        normalize = { trim = true }
        filter = { preset = "fineweb", min_words = 5 }
        decontaminate = { against = [{ name = "q", sources = [{ path = "q.jsonl", text = "q" }] }] }
        dedup = "exact"
        rejects = true
    "#;

    /// An override of [`GOOD`] and how the message about it begins.
    const BROKEN: &[(&str, &str)] = &[
        ("pretrain.normalize={}", "`pretrain.normalize` normalises"),
        ("pretrain.filter={}", "`pretrain.filter` has no limits"),
        (
            "pretrain.filter={max_short_lines=2.0}",
            "`pretrain.filter.max_short_lines` must lie in 0 to 1",
        ),
        (
            "pretrain.filter={preset='gopher',max_words=9}",
            "`pretrain.filter.min_words` must be at most 9, found 50",
        ),
        (
            "pretrain.filter={min_words=1,stop_words=['a']}",
            "`pretrain.filter.stop_words` means nothing",
        ),
        (
            "pretrain.decontaminate.ngram=1",
            "`pretrain.decontaminate.ngram` must be at least 2",
        ),
        (
            "pretrain.decontaminate.against=[]",
            "`pretrain.decontaminate.against` must be at least 1",
        ),
        (
            "pretrain.decontaminate.against=[{name='a/b',sources=[]}]",
            "`pretrain.decontaminate.against.0.name` is `a/b`",
        ),
        (
            "pretrain.decontaminate.against=[{name='a',sources=[{}]}]",
            "`pretrain.decontaminate.against.0.sources.0` has neither",
        ),
        (
            "pretrain.filter={max_short_lines=0.5,min_word_length=9,max_word_length=8}",
            "`pretrain.filter.min_word_length` must lie in 0 to 8",
        ),
        (
            "pretrain.filter={min_words=1,short_line=9}",
            "`pretrain.filter.short_line` means nothing",
        ),
        (
            "pretrain.decontaminate={}",
            "`pretrain.decontaminate.against` is missing",
        ),
        ("pretrain.dedup=fuzzy", "unknown value `fuzzy`"),
    ];

    #[test]
    fn every_rule_can_be_broken() {
        let message =
            |overrides: &[String]| match Recipe::parse(GOOD, Path::new("r.toml"), overrides) {
                Ok(_) => "fine".into(),
                Err(Error::Invalid(diagnosis)) => diagnosis.message,
                Err(error) => error.to_string(),
            };
        assert_eq!(message(&[]), "fine");
        for (setting, expected) in BROKEN {
            let message = message(&[setting.to_string()]);
            assert!(message.starts_with(expected), "{setting}: {message}");
        }
    }
}
