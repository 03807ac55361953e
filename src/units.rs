//! Numbers as people read them.

/// A count with its thousands apart: 12,345.
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if 0 < index && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count, from a million on in three figures: 987, 12,345, 4.56 M.
pub fn short(count: u64) -> String {
    if count < 1_000_000 {
        return grouped(count);
    }
    scaled(count as f64 / 1e6, 1000.0, &[" M", " G", " T"])
}

/// A size in bytes: 987 B, 12.3 KiB, 4.56 MiB.
pub fn bytes(count: u64) -> String {
    let units = [" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"];
    scaled(count as f64, 1024.0, &units)
}

/// A share in percent with as many places as it needs to be told from 0 and 100.
pub fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    if percent == 0.0 || percent == 100.0 {
        return format!("{percent:.0} %");
    }
    let room = percent.min(100.0 - percent);
    match room {
        _ if room < 0.001 => {
            let side = if percent < 50.0 {
                "< 0.001"
            } else {
                "> 99.999"
            };
            format!("{side} %")
        }
        _ if room < 0.1 => format!("{percent:.3} %"),
        _ if room < 10.0 => format!("{percent:.2} %"),
        _ => format!("{percent:.1} %"),
    }
}

/// `part` of `whole`; 0 of nothing is 0.
pub fn share(part: u64, whole: u64) -> f64 {
    match whole {
        0 => 0.0,
        _ => part as f64 / whole as f64,
    }
}

fn scaled(count: f64, step: f64, units: &[&str]) -> String {
    let (mut value, mut units) = (count, units.iter());
    let mut unit = units.next().copied().unwrap_or_default();
    // Where it would be rounded to the next unit, it is that unit.
    for next in units {
        if value < step - 0.5 {
            break;
        }
        (value, unit) = (value / step, *next);
    }
    let places = match value {
        _ if unit == " B" || 99.95 <= value => 0,
        _ if 9.995 <= value => 1,
        _ => 2,
    };
    format!("{value:.places$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grouped_by_thousands() {
        let texts = [0, 7, 999, 1_000, 12_345, 1_234_567].map(grouped);
        assert_eq!(texts, ["0", "7", "999", "1,000", "12,345", "1,234,567"]);
    }

    #[test]
    fn short_counts_have_three_figures() {
        let counts = [0, 12_345, 999_999, 1_000_000, 12_345_678, 999_900_000_000];
        let texts = ["0", "12,345", "999,999", "1.00 M", "12.3 M", "1.00 T"];
        assert_eq!(counts.map(short), texts);
        assert_eq!(
            [0, 1023, 1024, 1_536, 10 << 20, 1 << 40].map(bytes),
            [
                "0 B", "1023 B", "1.00 KiB", "1.50 KiB", "10.0 MiB", "1.00 TiB"
            ]
        );
    }

    #[test]
    fn shares_near_the_ends_keep_their_distance() {
        let shares = [
            0.0,
            1e-9,
            1e-5,
            0.0005,
            0.1,
            0.5,
            0.95,
            0.9995,
            0.999_999_9,
            1.0,
        ];
        let texts = [
            "0 %",
            "< 0.001 %",
            "0.001 %",
            "0.050 %",
            "10.0 %",
            "50.0 %",
            "95.00 %",
            "99.950 %",
            "> 99.999 %",
            "100 %",
        ];
        assert_eq!(shares.map(percent), texts);
        assert_eq!((share(1, 4), share(0, 0)), (0.25, 0.0));
    }
}
