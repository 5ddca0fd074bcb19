//! Days, weeks and months in UTC.

use super::Reset;
use crate::explain::civil;

const DAY_MS: i64 = 86_400_000;

/// When the stretch began that a budget counts for, in Unix milliseconds.
pub fn window_start(reset: Reset, now_ms: i64) -> i64 {
    let day = now_ms.div_euclid(DAY_MS);
    let first = match reset {
        Reset::Never => return i64::MIN,
        Reset::Daily => day,
        // 1970-01-01 was a Thursday.
        Reset::Weekly => day - (day + 3).rem_euclid(7),
        Reset::Monthly => day - (civil(day).2 - 1),
    };
    first.saturating_mul(DAY_MS)
}

/// The midnight before, in Unix milliseconds.
pub fn day_ms(now_ms: i64) -> i64 {
    window_start(Reset::Daily, now_ms)
}

/// Reads `2027-01-31` as its first moment in Unix milliseconds.
///
/// # Errors
/// If there is no such day.
pub fn parse_day(text: &str) -> Result<i64, String> {
    let bad = || format!("`{text}` is no day; write it as 2027-01-31");
    let mut parts = text.split('-').map(|part| part.parse::<i64>());
    let (Some(Ok(year)), Some(Ok(month)), Some(Ok(day)), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(bad());
    };
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return Err(bad());
    }
    // The inverse of `civil`: years begin in March.
    let shifted = if month <= 2 { year - 1 } else { year };
    let from_march = if month > 2 { month - 3 } else { month + 9 };
    let days = shifted * 365 + shifted / 4 - shifted / 100
        + shifted / 400
        + (153 * from_march + 2) / 5
        + day
        - 1
        - 719_468;
    if civil(days) == (year, month, day) { Ok(days * DAY_MS) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_read_and_windows_begin_at_midnight() {
        assert_eq!(parse_day("1970-01-01"), Ok(0));
        assert_eq!(parse_day("2000-02-29"), Ok(951_782_400_000));
        for bad in ["2027-02-29", "2027-13-01", "27-01-01", "2027-01", "soon", "2027-01-01-01"] {
            assert!(parse_day(bad).is_err(), "{bad}");
        }
        let at = |day| parse_day(day).unwrap();
        let now = at("2026-11-26") + 59_000;
        assert_eq!(window_start(Reset::Daily, now), at("2026-11-26"));
        assert_eq!(window_start(Reset::Weekly, now), at("2026-11-23"));
        assert_eq!(window_start(Reset::Monthly, now), at("2026-11-01"));
        assert_eq!(window_start(Reset::Never, now), i64::MIN);
    }
}
