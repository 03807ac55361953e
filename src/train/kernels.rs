//! Which form of the operations a run computes with: the one place that decides.

use crate::model::Device;
use crate::model::config::Config;
use crate::model::ops::Kernels;
#[cfg(any(test, feature = "cuda"))]
use crate::model::ops::cuda::agreement::Agreement;
use crate::model::precision::Precision;
use crate::recipe::Train;

/// What somebody wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// Our own where they can be had, else burn's.
    #[default]
    Auto,
    /// Burn's.
    Burn,
    /// Our own, or none.
    Own,
}

/// Kernels that were wanted and cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nobody wants others.
    #[error("our own kernels cannot be used here: {reason}")]
    Own {
        /// Why not.
        reason: String,
    },
    /// Others are single precision.
    #[error("`train.precision` is bf16, which only our own kernels compute in: {reason}")]
    Bf16 {
        /// Why they cannot be used.
        reason: String,
    },
}

impl Refused {
    /// What to do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Own { .. } => "leave `--kernels` out, or say `--kernels burn`",
            Self::Bf16 { .. } => "train with `precision = \"f32\"`, or with `--device cpu`",
        }
    }
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The form.
    pub kernels: Kernels,
    /// What whoever started the run should know.
    pub note: Option<String>,
}

/// Decides for a run on some devices, one a rank, which all compute in the same form. On
/// GPUs, our own kernels must first agree with the CPU's on a small model of the same kind,
/// on each of them; burn's operations, which compute where they do not, are single precision.
pub fn choose(
    wish: Wish,
    devices: &[Device],
    config: &Config,
    train: &Train,
) -> Result<Choice, Refused> {
    let on_cpu = |device| matches!(Kernels::for_device(device), Kernels::Fused(_));
    match (wish, devices.iter().all(on_cpu)) {
        (Wish::Burn, _) => burns(train, None),
        (_, true) => Ok(Choice {
            kernels: Kernels::Fused(train.precision),
            note: None,
        }),
        _ => match (wish, on_gpus(devices, config, train)) {
            (_, Ok(choice)) => Ok(choice),
            (Wish::Own, Err(reason)) => Err(Refused::Own { reason }),
            (_, Err(reason)) => burns(train, Some(reason)),
        },
    }
}

/// burn's operations, because our own cannot be had for a reason, or are not wanted.
fn burns(train: &Train, reason: Option<String>) -> Result<Choice, Refused> {
    match (train.precision, reason) {
        (Precision::Single, reason) => Ok(Choice {
            kernels: Kernels::Plain,
            note: reason.map(|reason| {
                format!(
                    "burn's operations compute, which are slower: our own cannot be used here: \
                     {reason}"
                )
            }),
        }),
        (Precision::Bf16, reason) => Err(Refused::Bf16 {
            reason: reason.unwrap_or_else(|| "`--kernels burn` asks for burn's".into()),
        }),
    }
}

#[cfg(not(feature = "cuda"))]
fn on_gpus(_: &[Device], _: &Config, _: &Train) -> Result<Choice, String> {
    Err("this build has none for a GPU".into())
}

#[cfg(feature = "cuda")]
fn on_gpus(devices: &[Device], config: &Config, train: &Train) -> Result<Choice, String> {
    use crate::model::device_name;
    use crate::model::ops::cuda::{check, engine};

    if train.freeze.is_some() || train.lora.is_some() {
        return Err(
            "they know neither adapters nor frozen weights (`train.lora`, \
                    `train.freeze`)"
                .into(),
        );
    }
    engine::supports(config)?;
    let names = devices.iter().map(device_name);
    let found = check::on_devices(config, devices, train.precision)?;
    let found: Vec<_> = names.zip(found).collect();
    let agreement = judged(&found)?;
    Ok(Choice {
        kernels: Kernels::Cuda(train.precision),
        note: Some(format!("our own kernels agree with the CPU's {agreement}")),
    })
}

/// How far our own kernels agree with the CPU's, where they do on every device of a run; else
/// on which they do not.
#[cfg(any(test, feature = "cuda"))]
fn judged(found: &[(String, Result<Agreement, String>)]) -> Result<String, String> {
    let (good, bad): (Vec<_>, Vec<_>) = found.iter().partition(|(_, agreement)| {
        let agreement = agreement.as_ref();
        agreement.is_ok_and(Agreement::holds)
    });
    let told = |some: Vec<&(String, Result<Agreement, String>)>| -> String {
        let each = some.into_iter().map(|(device, found)| match found {
            Ok(agreement) => format!("on `{device}`: {agreement}"),
            Err(reason) => format!("on `{device}`: {reason}"),
        });
        each.collect::<Vec<_>>().join("; ")
    };
    match bad.is_empty() {
        true => Ok(told(good)),
        false => Err(format!("they do not agree with the CPU's {}", told(bad))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ops::cuda::agreement::Off;
    use crate::model::testing::gpt2;

    #[test]
    fn a_processor_has_its_own_and_burns_are_single_precision() {
        let devices = [Device::flex(), Device::flex()];
        let chosen = |wish, text: &str| {
            let train: Train = toml::from_str(text).unwrap();
            choose(wish, &devices, &gpt2(), &train).map(|choice| choice.kernels)
        };
        let single = "steps = 1\nbatch_tokens = 8\nlr = 0.1";
        let bf16 = format!("{single}\nprecision = \"bf16\"");
        for wish in [Wish::Auto, Wish::Own] {
            assert_eq!(chosen(wish, single), Ok(Kernels::FUSED));
            assert_eq!(chosen(wish, &bf16), Ok(Kernels::Fused(Precision::Bf16)));
        }
        assert_eq!(chosen(Wish::Burn, single), Ok(Kernels::Plain));
        let refused = chosen(Wish::Burn, &bf16).unwrap_err();
        assert!(
            refused.to_string().contains("`train.precision`"),
            "{refused}"
        );
    }

    #[test]
    fn what_cannot_be_had_is_told_or_refused() {
        let train: Train = toml::from_str("steps = 1\nbatch_tokens = 8\nlr = 0.1").unwrap();
        let choice = burns(&train, Some("there is none".into())).unwrap();
        assert_eq!(choice.kernels, Kernels::Plain);
        assert!(choice.note.unwrap().ends_with("there is none"));
    }

    #[test]
    fn a_rank_whose_check_fails_decides_for_all() {
        let off = |found: f64| Off {
            found,
            allowed: 0.03,
        };
        let agreement = |gradient: f64| Agreement {
            loss: off(0.0),
            gradient: off(gradient),
            piece: "block.3.out.weight".into(),
            update: off(0.0),
        };
        let of = |device: &str, found| (device.to_owned(), found);
        let good = of("cuda:0", Ok(agreement(0.01)));
        let alike = [good.clone(), of("cuda:1", Ok(agreement(0.02)))];
        let note = judged(&alike).unwrap();
        assert!(
            note.contains("`cuda:0`") && note.contains("`cuda:1`"),
            "{note}"
        );
        for found in [Ok(agreement(0.2)), Err("it does not answer".into())] {
            let reason = judged(&[good.clone(), of("cuda:1", found)]).unwrap_err();
            assert!(
                reason.contains("`cuda:1`") && !reason.contains("`cuda:0`"),
                "{reason}"
            );
        }
    }
}
