//! What stands in braces in a case: `{a}` a channel's real name, `{e1}` a saved id or other value,
//! `{e1+}` an id far behind that one, `{TEXT*N}` TEXT N times with `#` in it as the number of the time.

use std::collections::HashMap;

use crate::Result;

/// Replaces what stands in braces. Braces around anything else, as in JSON, are left alone.
///
/// # Errors
/// When a name is not known.
pub fn fill(text: &str, values: &HashMap<String, String>) -> Result<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        let (before, from) = rest.split_at(open);
        out.push_str(before);
        let word = from[1..].split_once('}').map(|(word, _)| word).filter(|word| !word.contains('{'));
        match word.map(|word| (word, meaning(word))) {
            Some((word, Meaning::Name)) => {
                let value = values.get(word).ok_or(format!("nothing is saved as {{{word}}}"))?;
                out.push_str(value);
                rest = &from[word.len() + 2..];
            }
            Some((word, Meaning::Beyond(name))) => {
                let id = values.get(name).ok_or(format!("nothing is saved as {{{name}}}"))?;
                let (epoch, offset) = id.rsplit_once('-').ok_or(format!("{id} is no id"))?;
                let offset: u64 = offset.parse().map_err(|_| format!("{id} is no id"))?;
                out.push_str(&format!("{epoch}-{}", offset + BEYOND));
                rest = &from[word.len() + 2..];
            }
            Some((word, Meaning::Times(what, count))) => {
                (1..=count).for_each(|number| out.push_str(&what.replace('#', &number.to_string())));
                rest = &from[word.len() + 2..];
            }
            Some((_, Meaning::None)) | None => {
                out.push('{');
                rest = &from[1..];
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// Further than any test gets, wherever ids are how far apart.
const BEYOND: u64 = 1 << 40;

enum Meaning<'a> {
    Name,
    Beyond(&'a str),
    Times(&'a str, usize),
    None,
}

fn meaning(word: &str) -> Meaning<'_> {
    if let Some((what, count)) = word.rsplit_once('*')
        && let Ok(count) = count.parse()
    {
        return Meaning::Times(what, count);
    }
    if let Some(name) = word.strip_suffix('+')
        && matches!(meaning(name), Meaning::Name)
    {
        return Meaning::Beyond(name);
    }
    let name = word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if name && word.starts_with(|first: char| first.is_ascii_lowercase()) {
        Meaning::Name
    } else {
        Meaning::None
    }
}

/// The names in a list such as `["e1..e3", "x"]`.
///
/// # Errors
/// When a range is not of the form `NAME1..NAME9`.
pub fn names(list: &[String]) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for entry in list {
        let Some((from, to)) = entry.split_once("..") else {
            out.push(entry.clone());
            continue;
        };
        let stem = from.trim_end_matches(|last: char| last.is_ascii_digit());
        let number = |text: &str| text.strip_prefix(stem).and_then(|digits| digits.parse::<usize>().ok());
        let (Some(first), Some(last)) = (number(from), number(to)) else {
            return Err(format!("{entry:?} is no range"));
        };
        out.extend((first..=last).map(|number| format!("{stem}{number}")));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces() {
        let values = HashMap::from([("e1".to_owned(), "x-7".to_owned())]);
        let filled = fill("/v1?since={e1}9{&c=#*2}", &values);
        assert_eq!(filled.as_deref(), Ok("/v1?since=x-79&c=1&c=2"));
        assert_eq!(fill(r#"{"a":"{e1}"}{}"#, &values).as_deref(), Ok(r#"{"a":"x-7"}{}"#));
        assert_eq!(fill("{e1+}", &values).as_deref(), Ok("x-1099511627783"));
        assert_eq!(fill(r#"{"a":"{x*3}"}"#, &values).as_deref(), Ok(r#"{"a":"xxx"}"#));
        assert!(fill("{e2}", &values).is_err());
        assert_eq!(names(&["e9..e11".into(), "x".into()]).expect("right"), ["e9", "e10", "e11", "x"]);
    }
}
