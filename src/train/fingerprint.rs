//! What must stay the same between a run and the run that continues it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

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
    /// Its value in the checkpoint.
    pub then: Option<String>,
    /// Its value now.
    pub now: Option<String>,
}

impl Fingerprint {
    /// Adds a value; a table or list adds each of its parts under `name.key`.
    pub fn add(&mut self, name: &str, value: &Value) {
        match value {
            Value::Object(parts) => parts
                .iter()
                .for_each(|(key, part)| self.add(&format!("{name}.{key}"), part)),
            Value::Array(parts) => parts
                .iter()
                .enumerate()
                .for_each(|(index, part)| self.add(&format!("{name}.{index}"), part)),
            Value::String(text) => drop(self.0.insert(name.to_owned(), text.clone())),
            other => drop(self.0.insert(name.to_owned(), other.to_string())),
        }
    }

    /// The parts in which `now` differs from this one, by name.
    pub fn differences(&self, now: &Self) -> Vec<Difference> {
        let names: std::collections::BTreeSet<_> = self.0.keys().chain(now.0.keys()).collect();
        names
            .into_iter()
            .map(|name| Difference {
                name: name.clone(),
                then: self.0.get(name).cloned(),
                now: now.0.get(name).cloned(),
            })
            .filter(|part| part.then != part.now)
            .collect()
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_absent = |value: &Option<String>| value.clone().unwrap_or("absent".into());
        let (then, now) = (or_absent(&self.then), or_absent(&self.now));
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
    }
}
