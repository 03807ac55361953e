//! How an answer is judged, and how sure a share is.

use crate::recipe::Metric;

/// Whether `answer` says what `target` says.
pub fn matches(metric: Metric, answer: &str, target: &str) -> bool {
    match metric {
        Metric::ExactMatch => answer.trim() == target.trim(),
        Metric::FinalNumber => {
            let answer = final_number(answer);
            answer.is_some() && answer == final_number(target)
        }
    }
}

/// What of an answer counts for its metric; two answers are the same to the
/// metric where these are equal.
pub fn essence(metric: Metric, answer: &str) -> String {
    match metric {
        Metric::ExactMatch => answer.trim().to_owned(),
        Metric::FinalNumber => final_number(answer).unwrap_or_default(),
    }
}

/// The last number after the last `####`, or of the whole text where there is
/// none (GSM8K ends a solution by `#### 18`).
///
/// Commas and dollar signs are ignored, and so are zeros that do not change
/// the value: `$1,080.00` is `1080`. A minus counts where no digit or letter
/// stands before it, so that the last number of `5-3` is 3.
pub fn final_number(text: &str) -> Option<String> {
    let answer = text.rsplit_once("####").map_or(text, |(_, after)| after);
    let plain: Vec<char> = answer.chars().filter(|c| !matches!(c, ',' | '$')).collect();
    let end = plain.iter().rposition(char::is_ascii_digit)? + 1;
    let start = number_start(plain.get(..end)?);
    let before = plain.get(..start)?;
    let negative =
        matches!(before, [.., '-']) && !matches!(before, [.., c, '-'] if c.is_alphanumeric());
    let number: String = plain.get(start..end)?.iter().collect();
    Some(canonical(&number, negative))
}

/// The 95 % interval of a share of `n`, by Wilson (1927): it stays inside
/// `[0, 1]` and has a width even where all or none are correct.
pub fn wilson(correct: u64, n: u64) -> [f64; 2] {
    if n == 0 {
        return [0.0, 1.0];
    }
    // The 97.5 % point of the standard normal distribution.
    const Z: f64 = 1.959_963_984_540_054;
    let (share, n) = (correct as f64 / n as f64, n as f64);
    let scale = 1.0 + Z * Z / n;
    let middle = (share + Z * Z / (2.0 * n)) / scale;
    let half = Z / scale * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    [
        (middle - half).clamp(0.0, share),
        (middle + half).clamp(share, 1.0),
    ]
}

/// Where the number begins that ends `text`: digits with at most one point,
/// which follows a digit or no word (`.75`).
fn number_start(text: &[char]) -> usize {
    let digits =
        |text: &[char]| text.len() - text.iter().rev().take_while(|c| c.is_ascii_digit()).count();
    let start = digits(text);
    match text.get(..start) {
        Some([whole @ .., '.']) if digits(whole) < whole.len() => digits(whole),
        Some([whole @ .., '.']) if whole.last().is_none_or(|c| !c.is_alphanumeric()) => whole.len(),
        _ => start,
    }
}

/// One spelling for each value.
fn canonical(number: &str, negative: bool) -> String {
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let (whole, part) = (whole.trim_start_matches('0'), part.trim_end_matches('0'));
    let whole = if whole.is_empty() { "0" } else { whole };
    let sign = if negative && (whole, part) != ("0", "") {
        "-"
    } else {
        ""
    };
    let point = if part.is_empty() { "" } else { "." };
    format!("{sign}{whole}{point}{part}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn final_numbers_are_found() {
        for (text, number) in [
            ("She has 3 + 4 = 7 eggs.\n#### 18", Some("18")),
            ("#### $1,080.00", Some("1080")),
            ("so 12 apples and then 5.", Some("5")),
            ("the answer is 0.50", Some("0.5")),
            ("it falls to -3 degrees", Some("-3")),
            ("it costs -$3", Some("-3")),
            ("5-3", Some("3")),
            ("5 - -3", Some("-3")),
            ("-0", Some("0")),
            ("007", Some("7")),
            ("version 1.2.3", Some("2.3")),
            ("costs $.75", Some("0.75")),
            ("point.75", Some("75")),
            ("#### 5 #### 6", Some("6")),
            ("6 ####", None),
            ("no number", None),
            ("", None),
        ] {
            assert_eq!(final_number(text).as_deref(), number, "{text}");
        }
    }

    #[test]
    fn answers_are_judged() {
        assert!(matches(Metric::ExactMatch, " red\n", "red"));
        assert!(!matches(Metric::ExactMatch, "Red", "red"));
        assert!(matches(Metric::FinalNumber, "I think 18.0", "#### 18"));
        assert!(!matches(Metric::FinalNumber, "I do not know", "nor do I"));
        assert!(!matches(Metric::FinalNumber, "", "#### 18"));
    }

    #[test]
    fn wilson_agrees_with_its_quadratic() {
        // The bounds are where |share - p| = z * sqrt(p (1 - p) / n).
        for (correct, n) in [(0, 10), (1, 10), (5, 10), (10, 10), (81, 263), (499, 500)] {
            let share = correct as f64 / n as f64;
            let [low, high] = wilson(correct, n);
            assert!(0.0 <= low && low <= share && share <= high && high <= 1.0);
            for p in [low, high] {
                let distance = 1.959_963_984_540_054 * (p * (1.0 - p) / n as f64).sqrt();
                assert!(
                    ((share - p).abs() - distance).abs() < 1e-9,
                    "{correct}/{n}: {p}"
                );
            }
        }
        assert_eq!(wilson(0, 0), [0.0, 1.0]);
    }
}
