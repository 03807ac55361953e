//! What must stay the same between a run and the run that continues it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::Digest;

/// Names and values, such as `train.lr` and `0.001`.
///
/// Values are kept as text, so that numbers are compared as they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(BTreeMap<String, String>);

/// One part in which two fingerprints differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its name.
    pub name: String,
    /// Its value in the run that is continued.
    pub then: Option<String>,
    /// Its value now.
    pub now: Option<String>,
}

impl Fingerprint {
    /// Adds a value; a table or list adds each of its parts under `name.key`, or under
    /// `key` if it has no name.
    pub fn add(&mut self, name: &str, value: &Value) {
        let inside = |key: &dyn fmt::Display| match name {
            "" => key.to_string(),
            _ => format!("{name}.{key}"),
        };
        match value {
            Value::Object(parts) => parts
                .iter()
                .for_each(|(key, part)| self.add(&inside(key), part)),
            Value::Array(parts) => parts
                .iter()
                .enumerate()
                .for_each(|(index, part)| self.add(&inside(&index), part)),
            Value::String(text) => drop(self.0.insert(name.to_owned(), text.clone())),
            other => drop(self.0.insert(name.to_owned(), other.to_string())),
        }
    }

    /// The parts in which `now` differs from this one, by name; but digests last, as
    /// they tell a person least.
    pub fn differences(&self, now: &Self) -> Vec<Difference> {
        let names: BTreeSet<_> = self.0.keys().chain(now.0.keys()).collect();
        let parts = names.into_iter().map(|name| Difference {
            name: name.clone(),
            then: self.0.get(name).cloned(),
            now: now.0.get(name).cloned(),
        });
        let mut differences: Vec<_> = parts.filter(|part| part.then != part.now).collect();
        differences.sort_by_key(Difference::is_of_digests);
        differences
    }
}

impl Difference {
    fn is_of_digests(&self) -> bool {
        let mut values = [&self.then, &self.now].into_iter().flatten();
        values.all(|value| digest(value).is_some())
    }
}

fn digest(value: &str) -> Option<Digest> {
    Digest::try_from(value.to_owned()).ok()
}

/// The first differences, and how many more there are, for a message.
pub fn told(differences: &[Difference]) -> String {
    let told: Vec<_> = differences
        .iter()
        .take(TOLD_MAX)
        .map(ToString::to_string)
        .collect();
    match differences.len().saturating_sub(TOLD_MAX) {
        0 => told.join(", "),
        more => format!("{} and {more} more", told.join(", ")),
    }
}

/// More differences than this are counted, not listed.
const TOLD_MAX: usize = 3;

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<String>| match value {
            None => "absent".into(),
            Some(text) => digest(text).map_or(text.clone(), |digest| digest.short()),
        };
        let (then, now) = (shown(&self.then), shown(&self.now));
        write!(f, "`{}` was {then} and is {now}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn differences_are_named() {
        let of = |value: Value| {
            let mut fingerprint = Fingerprint::default();
            fingerprint.add("train", &value);
            fingerprint
        };
        let then = of(json!({"lr": 0.1, "betas": [0.9, 0.95], "schedule": "cosine", "old": 1}));
        let now = of(json!({"lr": 0.1, "betas": [0.9, 0.99], "schedule": "linear", "new": null}));
        let told: Vec<String> = then
            .differences(&now)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            told,
            [
                "`train.betas.1` was 0.95 and is 0.99",
                "`train.new` was absent and is null",
                "`train.old` was 1 and is absent",
                "`train.schedule` was cosine and is linear",
            ]
        );
        assert_eq!(then.differences(&then), []);
        let told = super::told(&then.differences(&now));
        assert!(told.ends_with("was 1 and is absent and 1 more"), "{told}");
    }

    #[test]
    fn digests_are_short_and_come_last() {
        let of = |fraction: f64, dataset: &[u8]| {
            let mut fingerprint = Fingerprint::default();
            let recipe = json!({"pause": {"fraction": fraction}});
            fingerprint.add(
                "",
                &json!({"dataset": Digest::of(dataset), "recipe": recipe}),
            );
            fingerprint
        };
        let differences = of(0.1, b"a").differences(&of(0.2, b"b"));
        let (then, now) = (Digest::of(b"a").short(), Digest::of(b"b").short());
        assert_eq!(
            told(&differences),
            format!(
                "`recipe.pause.fraction` was 0.1 and is 0.2, `dataset` was {then} and is {now}"
            )
        );
    }
}
