//! The rows of a CSV file, each with the line of the file in which it begins. The quotes are held to RFC 4180 (section 2, rules 5 to 7):
//! `csv` itself takes whatever it gets, and an unclosed quote then makes one cell of all the rows behind it.

use csv::{ReaderBuilder, StringRecord};

/// A row, or what is wrong with it; and the line it is about.
pub(super) type Row = (u64, Result<StringRecord, String>);

/// All rows, the header row too; blank lines are none. The cells are as they stand, untrimmed.
pub(super) fn rows(text: &str) -> Vec<Row> {
    let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
    let mut rows = Vec::new();
    let (mut line, mut counted) = (1, 0);
    loop {
        let from = offset(&reader);
        let mut record = StringRecord::new();
        let read = reader.read_record(&mut record);
        let raw = text.get(from..offset(&reader)).unwrap_or_default();
        // The blank lines before a row are read with it, and so is the second half of the CRLF of the row before.
        let row = raw.trim_start_matches(['\r', '\n']);
        let begin = from + raw.len() - row.len();
        line += breaks(text.get(counted..begin).unwrap_or_default());
        counted = begin;
        match read {
            Ok(false) => return rows,
            Ok(true) if row.trim().is_empty() => {}
            Ok(true) => rows.push(quoted_well(row, line).map_or_else(
                |Misquoted { line, cell, why }| (line, Err(format!("cell {cell}: {why}"))),
                |()| (line, Ok(record)),
            )),
            Err(error) => {
                rows.push((line, Err(format!("it is not CSV: {error}"))));
                return rows;
            }
        }
    }
}

/// The lines of a text, numbered from 1: an editor ends one at CRLF, at LF, and at a CR alone.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (u64, &str)> {
    let mut rest = Some(text);
    let mut number = 0;
    std::iter::from_fn(move || {
        let text = rest?;
        let (line, behind) = match text.find(['\r', '\n']) {
            Some(end) => {
                let (line, behind) = text.split_at(end);
                (line, behind.strip_prefix("\r\n").or_else(|| behind.get(1..)))
            }
            None => (text, None),
        };
        rest = behind;
        number += 1;
        Some((number, line))
    })
}

fn offset(reader: &csv::Reader<&[u8]>) -> usize {
    usize::try_from(reader.position().byte()).unwrap_or(usize::MAX)
}

/// How many lines end in a text that does not end within a CRLF.
fn breaks(text: &str) -> u64 {
    (text.matches(['\r', '\n']).count() - text.matches("\r\n").count()) as u64
}

/// A quote that cannot be meant as it stands.
struct Misquoted {
    line: u64,
    cell: usize,
    why: String,
}

/// Where in a cell the reading is.
#[derive(Clone, Copy)]
enum At {
    /// Before its first character but blanks.
    Begin { blank: bool },
    /// Within one that has no quotes around it. Quotes inside of it are text, as in JSON that needs none.
    Plain,
    /// Within the quotes, which were opened in this line.
    Quoted(u64),
    /// Behind the quote that closes it, with the line in which it was opened.
    Closed(u64),
}

fn quoted_well(row: &str, first_line: u64) -> Result<(), Misquoted> {
    let (mut at, mut line, mut cell) = (At::Begin { blank: false }, first_line, 1);
    let mut chars = row.chars().peekable();
    while let Some(c) = chars.next() {
        at = match (at, c) {
            (At::Quoted(_), '"') if chars.peek() == Some(&'"') => {
                chars.next();
                at
            }
            (At::Quoted(opened), '"') => At::Closed(opened),
            (At::Quoted(_), _) => at,
            (At::Begin { .. } | At::Plain | At::Closed(_), ',') => {
                cell += 1;
                At::Begin { blank: false }
            }
            // What ends the row is its last character.
            (At::Begin { .. } | At::Plain | At::Closed(_), '\r' | '\n') => at,
            (At::Begin { .. }, ' ' | '\t') => At::Begin { blank: true },
            (At::Begin { blank: false }, '"') => At::Quoted(line),
            (At::Begin { blank: true }, '"') => {
                let why = "a blank stands before the quote that begins it; a quoted cell begins with its quote".into();
                return Err(Misquoted { line, cell, why });
            }
            (At::Begin { .. } | At::Plain, _) => At::Plain,
            (At::Closed(_), ' ' | '\t') => at,
            (At::Closed(opened), _) => {
                let why = format!(
                    "the quote that begins it ends in line {line} with text behind it; is a quote missing? One within a quoted cell is written twice"
                );
                return Err(Misquoted { line: opened, cell, why });
            }
        };
        line += u64::from(c == '\n' || (c == '\r' && chars.peek() != Some(&'\n')));
    }
    match at {
        At::Quoted(opened) => {
            let why = "the quote that begins it is never closed; nothing behind it can be read".into();
            Err(Misquoted { line: opened, cell, why })
        }
        At::Begin { .. } | At::Plain | At::Closed(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each row as its line and its cells, or its line and a part of what is wrong.
    fn check(text: &str, expected: &[(u64, Result<&[&str], &str>)]) {
        let rows = rows(text);
        assert_eq!(rows.len(), expected.len(), "{text:?}: {rows:?}");
        for ((line, row), (wanted, cells)) in rows.iter().zip(expected) {
            assert_eq!(line, wanted, "{text:?}: {rows:?}");
            match (row, cells) {
                (Ok(row), Ok(cells)) => assert_eq!(&row.iter().collect::<Vec<_>>(), cells, "{text:?}"),
                (Err(why), Err(part)) => assert!(why.contains(part), "{text:?}: {part:?} is not in {why:?}"),
                (Ok(_), Err(_)) | (Err(_), Ok(_)) => panic!("{text:?}: {rows:?}"),
            }
        }
    }

    #[test]
    fn a_row_has_the_line_of_the_file_whatever_ends_a_line() {
        for end in ["\n", "\r\n", "\r"] {
            let text = ["", "a,b", "", "1,2", "  ", "\"x", "y\",\"\"", "3,4", "", ""].join(end);
            let cell = format!("x{end}y");
            check(&text, &[(2, Ok(&["a", "b"])), (4, Ok(&["1", "2"])), (6, Ok(&[&cell, ""])), (8, Ok(&["3", "4"]))]);
        }
        check("a\r\n\r\rb\n\n\rc", &[(1, Ok(&["a"])), (4, Ok(&["b"])), (7, Ok(&["c"]))]);
        check("", &[]);
        check("\r\n", &[]);
    }

    #[test]
    fn a_quote_that_is_not_closed_or_has_text_behind_it_is_an_error_with_its_line() {
        check(
            "a,b\n1,\"x\n2,y\n",
            &[(1, Ok(&["a", "b"])), (2, Err("cell 2: the quote that begins it is never closed"))],
        );
        check("1,\"x\r\n2,\"y\"\r\n3,z\r\n", &[(1, Err("ends in line 2 with text behind it")), (3, Ok(&["3", "z"]))]);
        check("\"1\n\",\"x\n", &[(2, Err("cell 2: the quote"))]);
        check("1,\"", &[(1, Err("never closed"))]);
        check("1,\"\"\"\n2,y\n", &[(1, Err("never closed"))]);
        check("1, \"x\"\n", &[(1, Err("a blank stands before the quote"))]);
    }

    #[test]
    fn quotes_that_can_only_be_meant_one_way_are_taken() {
        check("\"1\",\"x \"\"y\"\", z\" ,\"\"\n", &[(1, Ok(&["1", "x \"y\", z ", ""]))]);
        check("1,[{\"k\":\"v\"}],5\" wide\n", &[(1, Ok(&["1", "[{\"k\":\"v\"}]", "5\" wide"]))]);
    }

    #[test]
    fn lines_are_numbered_as_an_editor_does() {
        let all: Vec<_> = lines("a\r\n\rb\n\nc\r").collect();
        assert_eq!(all, [(1, "a"), (2, ""), (3, "b"), (4, ""), (5, "c"), (6, "")]);
    }
}
