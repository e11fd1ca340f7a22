//! How well a name fits what was typed: its letters in their order, better where they stand together or begin a word.

/// Gets a score, higher is better; `None` where the letters of `query` do not stand in `name` in their order.
pub fn score(query: &str, name: &str) -> Option<i32> {
    let name: Vec<char> = name.to_lowercase().chars().collect();
    let mut total = 0;
    let mut at = 0;
    let mut last = None;
    for wanted in query.to_lowercase().chars().filter(|c| !c.is_whitespace()) {
        let found = (at..name.len()).find(|&i| name[i] == wanted)?;
        total += match last {
            Some(before) if found == before + 1 => 8,
            _ if found == 0 || !name[found - 1].is_alphanumeric() => 6,
            _ => 1,
        };
        last = Some(found);
        at = found + 1;
    }
    // Of two that fit alike the shorter one is nearer.
    Some(total * 64 - i32::try_from(name.len()).unwrap_or(i32::MAX).min(63))
}

/// Gets the positions of the names that fit, the best first; those that fit alike stay in their order.
pub fn rank<'a>(query: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<usize> {
    let mut fits: Vec<(i32, usize)> =
        names.into_iter().enumerate().filter_map(|(i, name)| Some((score(query, name)?, i))).collect();
    if query.trim().is_empty() {
        return fits.into_iter().map(|(_, i)| i).collect();
    }
    fits.sort_by_key(|&(score, i)| (-score, i));
    fits.into_iter().map(|(_, i)| i).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_in_their_order_fit_and_the_nearest_comes_first() {
        let names = ["reviewer", "release-notes", "tester", "nightly"];
        assert_eq!(rank("", names), [0, 1, 2, 3]);
        assert_eq!(rank("rn", names), [1]);
        assert_eq!(rank("te", names)[0], 2);
        assert_eq!(rank("NIGHT", names), [3]);
        assert!(rank("zz", names).is_empty());
        assert!(score("ab", "ab").unwrap() > score("ab", "a-b").unwrap());
        assert!(score("ab", "xab").unwrap() < score("ab", "ab").unwrap());
    }
}
