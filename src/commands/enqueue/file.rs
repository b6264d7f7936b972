//! The file: every line a checked job, or all bad lines with their numbers.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::rows::{lines, rows};
use crate::domain::escape::Escaped;
use crate::domain::job::Intent;
use crate::wire::batch::job_id;
use crate::wire::job::{Rules, parse};
use crate::wire::recipient::{self, FIELDS, Field};

/// What a file of those that failed has beside the columns of its own: not a part of the job.
pub(super) const REMARKS: [&str; 2] = ["reason", "detail"];
/// The longest job id, in bytes: what AMQP's `message_id` holds.
const MAX_ID: usize = 255;

/// A file whose lines are all well.
#[derive(Debug)]
pub(super) struct Sheet {
    /// The columns that its jobs have, in the order they came.
    pub(super) columns: Vec<String>,
    /// Its jobs, in their order.
    pub(super) jobs: Vec<Job>,
}

/// A checked job.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) body: String,
    pub(super) resets: bool,
    /// Its id, where it is of a batch.
    pub(super) id: Option<String>,
    /// What stood in its columns.
    pub(super) cells: Vec<(String, String)>,
}

/// A job as it was written.
struct Written {
    body: String,
    cells: Vec<(String, String)>,
}

type Line = (u64, Result<Written, String>);

/// Reads a file, or standard input where it is `-`.
pub(super) fn text(file: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    if file.as_os_str() == "-" {
        std::io::stdin().lock().read_to_end(&mut bytes).context("standard input cannot be read")?;
    } else {
        bytes = std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
    }
    let text = String::from_utf8(bytes).map_err(|_| {
        anyhow::anyhow!("{} is not UTF-8; save it as UTF-8 (a spreadsheet: \"CSV UTF-8\")", file.display())
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned())
}

/// Whether a path leads to the file that is read, however either of them is written; of a shell's redirection too.
pub(super) fn is_same(input: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let input = if input.as_os_str() == "-" { Path::new("/dev/stdin") } else { input };
    let file =
        |path: &Path| std::fs::metadata(path).ok().filter(|file| file.is_file()).map(|file| (file.dev(), file.ino()));
    file(other).is_some_and(|other| file(input) == Some(other))
}

/// Every line as a job, or every bad line with its number.
pub(super) fn sheet(text: &str, rules: &Rules, batch: Option<&str>) -> Result<Sheet> {
    let lines = if text.trim_start().starts_with('{') { ndjson(text) } else { csv(text)? };
    let mut sheet = Sheet { columns: Vec::new(), jobs: Vec::with_capacity(lines.len()) };
    let mut users = HashMap::new();
    let mut bad = Vec::new();
    for (line, written) in lines {
        match written.and_then(|written| job(written, line, rules, batch, &mut users)) {
            Ok(job) => {
                for (column, _) in &job.cells {
                    if !sheet.columns.contains(column) {
                        sheet.columns.push(column.clone());
                    }
                }
                sheet.jobs.push(job);
            }
            Err(why) => bad.push(format!("\n  line {line}: {}", Escaped(why))),
        }
    }
    if !bad.is_empty() {
        bail!(
            "{} of {} lines are not valid, and nothing was sent; fix them and run it again:{}",
            bad.len(),
            bad.len() + sheet.jobs.len(),
            bad.concat()
        );
    }
    if sheet.jobs.is_empty() {
        bail!(
            "the file has no jobs; it must be CSV with a header row and a row for each user, or NDJSON with a job on each line"
        );
    }
    Ok(sheet)
}

fn job(
    written: Written,
    line: u64,
    rules: &Rules,
    batch: Option<&str>,
    users: &mut HashMap<String, u64>,
) -> Result<Job, String> {
    let Written { body, cells } = written;
    let intent = parse(body.as_bytes(), rules).map_err(|invalid| invalid.detail)?;
    let Some(batch) = batch else {
        return Ok(Job { resets: matches!(intent, Intent::Reset(_)), body, id: None, cells });
    };
    let (resets, id) = match &intent {
        Intent::PassThrough => (false, job_id(batch, &format!("#{line}"))),
        Intent::Reset(reset) => {
            let (column, user) = match reset.who.id() {
                Some(id) => ("userId", id.in_lower_case().as_str().to_owned()),
                None => ("userName", reset.who.as_str().to_lowercase()),
            };
            if let Some(first) = users.insert(user, line) {
                return Err(format!(
                    "{column}: the same user stands in line {first}; within one batch each user may stand once"
                ));
            }
            let id = job_id(batch, reset.who.as_str());
            if id.len() > MAX_ID {
                return Err(format!(
                    "{column}: with the batch's name before it, it has {} bytes and must have at most {MAX_ID}; take a shorter --batch",
                    id.len()
                ));
            }
            (true, id)
        }
    };
    Ok(Job { body, resets, id: Some(id), cells })
}

fn ndjson(text: &str) -> Vec<Line> {
    let written = lines(text).filter(|(_, line)| !line.trim().is_empty());
    written.map(|(number, line)| (number, object(line))).collect()
}

/// A line of NDJSON, as it is but for the remarks.
fn object(line: &str) -> Result<Written, String> {
    let value: Value = serde_json::from_str(line)
        .map_err(|error| format!("column {}: it is not JSON; it must be one JSON object", error.column()))?;
    let Value::Object(mut fields) = value else {
        return Ok(Written { body: line.to_owned(), cells: Vec::new() });
    };
    let cells = cells(&fields);
    let body = if REMARKS.iter().any(|remark| fields.contains_key(*remark)) {
        fields.retain(|name, _| !REMARKS.contains(&name.as_str()));
        Value::Object(fields).to_string()
    } else {
        line.to_owned()
    };
    Ok(Written { body, cells })
}

/// What would stand in the columns of a CSV file.
fn cells(fields: &Map<String, Value>) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let named = |field: &Field| match field.list_of {
        Some(_) => fields.get(field.name)?.pointer("/0/value"),
        None => fields.get(field.name).filter(|value| value.as_str().is_some_and(|text| !text.is_empty())),
    };
    let recipient = FIELDS.iter().find_map(|field| Some((field.list_of.unwrap_or(field.name), named(field)?)));
    let user = ["userId", "userName"].into_iter().filter_map(|name| Some((name, fields.get(name)?)));
    let own = user.chain(recipient).map(|(name, value)| (name.to_owned(), text(value)));
    let attributes = fields.get("attributes").and_then(Value::as_object).into_iter().flatten();
    own.chain(attributes.map(|(name, value)| (name.clone(), text(value)))).collect()
}

fn csv(text: &str) -> Result<Vec<Line>> {
    if text.trim_start().starts_with('[') {
        bail!("the file is one JSON list; it must have a job on each line: jq -c '.[]' FILE | resetd enqueue -");
    }
    let mut rows = rows(text).into_iter();
    let (line, header) = match rows.next() {
        Some((line, Ok(header))) => (line, header),
        Some((line, Err(why))) => bail!("line {line}: the header row cannot be read: {}", Escaped(why)),
        None => (1, csv::StringRecord::new()),
    };
    let names = header.iter().map(|name| plain("the header row", name));
    let header: Vec<&str> =
        names.collect::<Result<_, _>>().map_err(|why| anyhow::anyhow!("line {line}: {}", Escaped(why)))?;
    if !header.iter().any(|name| *name == "userId" || *name == "userName") {
        // What stands there is not repeated: without a header row it is somebody's data.
        let columns = header.len();
        bail!(
            "line {line}: the header row ({columns} columns) has no column userId, nor userName; it must be such as userId,email,title"
        );
    }
    if let Some(twice) = header.iter().enumerate().find(|(at, name)| header.iter().take(*at).any(|seen| seen == *name))
    {
        bail!("line {line}: the column {:?} stands twice", twice.1);
    }
    Ok(rows.map(|(line, record)| (line, record.and_then(|record| row(&header, &record)))).collect())
}

/// Whether a column is a field of a job, and no attribute.
fn is_own(column: &str) -> bool {
    matches!(column, "userId" | "userName") || recipient::columns().any(|name| name == column)
}

/// A row as the body of a job.
fn row(header: &[&str], record: &csv::StringRecord) -> Result<Written, String> {
    if record.len() != header.len() {
        return Err(format!(
            "it has {} cells and the header row {}; is a comma missing, or one too many that wants quotes?",
            record.len(),
            header.len()
        ));
    }
    let mut body = Map::from_iter([("password".to_owned(), Value::Bool(true))]);
    let mut attributes = Vec::new();
    let mut cells = Vec::with_capacity(header.len());
    for (name, cell) in header.iter().copied().zip(record) {
        if REMARKS.contains(&name) {
            // Read for what it may have swallowed alone.
            plain(&format!("column {name}"), cell)?;
            continue;
        }
        let text = match name {
            name if is_own(name) => {
                let text = plain(&format!("column {name}"), cell)?;
                if !text.is_empty() {
                    body.insert(name.to_owned(), text.into());
                }
                text
            }
            attribute => {
                let column = format!("column {attribute}");
                if is_json(cell) {
                    let json: &RawValue = serde_json::from_str(cell.trim())
                        .map_err(|_| format!("{column}: the cell begins like JSON but is none"))?;
                    attributes.push(format!("{}:{json}", Value::from(attribute)));
                    cell.trim()
                } else {
                    let text = plain(&column, cell)?;
                    if !text.is_empty() {
                        attributes.push(format!("{}:{}", Value::from(attribute), Value::from(text)));
                    }
                    text
                }
            }
        };
        cells.push((name.to_owned(), text.to_owned()));
    }
    let mut body = Value::Object(body).to_string();
    if !attributes.is_empty() {
        // JSON as it stands in its cell: what a library makes of it may be something else.
        body.truncate(body.len() - 1);
        body += &format!(",\"attributes\":{{{}}}}}", attributes.join(","));
    }
    Ok(Written { body, cells })
}

fn is_json(cell: &str) -> bool {
    cell.trim_start().starts_with(['[', '{'])
}

/// Whether a character is none of a cell's text.
pub(super) fn is_refused(c: char) -> bool {
    refused(c).is_some()
}

fn refused(c: char) -> Option<&'static str> {
    match c {
        '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}' => Some("a line break"),
        c if c.is_control() => Some("a control character"),
        _ => None,
    }
}

/// What a spreadsheet takes for a formula begins so, in some of them in full width too.
const FORMULA: [char; 8] = ['=', '+', '-', '@', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}'];
/// Before it, it is text to a spreadsheet.
const TEXT: char = '\'';

fn is_formula(cell: &str) -> bool {
    cell.trim_start().starts_with(FORMULA)
}

/// A cell that no spreadsheet takes for a formula: one that begins as such, or with quotes before that, has one quote more, which is taken
/// away where it is read.
pub fn no_formula(cell: &str) -> Cow<'_, str> {
    if is_formula(cell.trim_start_matches(TEXT)) { format!("{TEXT}{cell}").into() } else { cell.into() }
}

/// A cell as it was before [`no_formula`].
fn formula(cell: &str) -> &str {
    cell.strip_prefix(TEXT).filter(|rest| is_formula(rest.trim_start_matches(TEXT))).unwrap_or(cell)
}

/// The text of a cell, without the blanks around it. A line break in one comes from a quote at the wrong place, and what follows it are
/// other people's rows; those around the text count too.
fn plain<'a>(place: &str, cell: &'a str) -> Result<&'a str, String> {
    let text = cell.trim_matches([' ', '\t']);
    match text.chars().enumerate().find_map(|(at, c)| Some((at, refused(c)?))) {
        None => Ok(formula(text.trim()).trim()),
        Some((at, what)) => Err(format!(
            "{place}: character {} of {} is {what}; is a quote missing or one too many? What is meant so is sent as NDJSON, where JSON says it",
            at + 1,
            text.chars().count()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::attribute::AllowedAttributes;

    fn read(text: &str, batch: Option<&str>) -> Result<Sheet> {
        let allowed = AllowedAttributes::new(vec!["title".into(), "genesys:*".into()]);
        let rules = Rules { allowed, ..Rules::default() };
        sheet(text.strip_prefix('\u{feff}').unwrap_or(text), &rules, batch)
    }

    fn bodies(text: &str) -> Result<Vec<String>> {
        Ok(read(text, None)?.jobs.into_iter().map(|job| job.body).collect())
    }

    #[test]
    fn a_csv_row_is_a_reset_with_its_attributes() {
        let rows = bodies("\u{20}userId , email,title,genesys:routingSkills\nu-1,a@b.c,Agent,\"[{\"\"value\"\":\"\"x\"\"}]\"\nu-2,d@e.f,,\n").unwrap();
        assert_eq!(
            rows,
            [
                r#"{"password":true,"userId":"u-1","email":"a@b.c","attributes":{"title":"Agent","genesys:routingSkills":[{"value":"x"}]}}"#,
                r#"{"password":true,"userId":"u-2","email":"d@e.f"}"#,
            ]
        );
    }

    /// It is no empty cell: a quote may have swallowed the rest.
    #[test]
    fn a_cell_of_line_breaks_or_control_characters_alone_is_an_error_too() {
        for cell in ["\n", "\r\n", "\u{b}", " \u{c} ", "\u{85}", "\u{2028}", "\u{1b}"] {
            for column in ["title", "userId", "email", "genesys:x"] {
                let mut cells = [("userId", "u-1"), ("email", "a@b.c"), ("title", "Agent"), ("genesys:x", "y")];
                cells.iter_mut().filter(|(name, _)| *name == column).for_each(|(_, own)| *own = cell);
                let text = format!(
                    "userId,email,title,genesys:x\n{}\n",
                    cells.map(|(_, cell)| format!("\"{cell}\"")).join(",")
                );
                let said = bodies(&text).unwrap_err().to_string();
                assert!(said.contains(&format!("line 2: column {column}: character")), "{column} {cell:?}: {said}");
            }
        }
    }

    #[test]
    fn json_in_a_cell_is_what_a_job_of_it_would_be() {
        for key in ["$serde_json::private::Number", "$serde_json::private::RawValue"] {
            let text = format!("userId,email,genesys:x\nu-1,a@b.c,\"{{\"\"{key}\"\":\"\"1\"\"}}\"\n");
            let said = bodies(&text).unwrap_err().to_string();
            assert!(said.contains("line 2: ") && said.contains("genesys:x"), "{said}");
        }
        let rows = bodies("userId,email,genesys:x\nu-1,a@b.c,\" [1.50, 12345678901234567890123]\"\n").unwrap();
        assert!(rows[0].ends_with(r#""attributes":{"genesys:x":[1.50, 12345678901234567890123]}}"#), "{rows:?}");
    }

    #[test]
    fn a_row_may_name_its_user_and_remarks_are_no_part_of_the_job() {
        let csv = "userName,userId,email,reason,detail\nann@x,,a@b,not_found,\"no, nobody\"\n,u-2,a@b,,\n";
        let expected = [
            r#"{"password":true,"userName":"ann@x","email":"a@b"}"#,
            r#"{"password":true,"userId":"u-2","email":"a@b"}"#,
        ];
        assert_eq!(bodies(csv).unwrap(), expected);
        assert_eq!(read(csv, None).unwrap().columns, ["userName", "userId", "email"]);
        let line = r#"{"userName":"ann@x","password":true,"email":"a@b","reason":"not_found","detail":null}"#;
        assert_eq!(bodies(line).unwrap(), [r#"{"userName":"ann@x","password":true,"email":"a@b"}"#]);
    }

    #[test]
    fn what_a_spreadsheet_takes_for_a_formula_is_text_in_a_file_and_is_read_as_it_was() {
        for (cell, written) in [
            ("Agent", "Agent"),
            ("=HYPERLINK(\"x\")", "'=HYPERLINK(\"x\")"),
            ("+49 30", "'+49 30"),
            ("-1", "'-1"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("  =1", "'  =1"),
            ("\t=1", "'\t=1"),
            ("\r=1", "'\r=1"),
            ("\u{ff1d}1", "'\u{ff1d}1"),
            ("'=1", "''=1"),
            ("'quoted'", "'quoted'"),
            ("'", "'"),
            ("a=b", "a=b"),
            ("", ""),
        ] {
            assert_eq!(no_formula(cell), written);
            assert_eq!(formula(written), cell);
            assert!(!written.trim_start().starts_with(FORMULA));
        }
        let csv = "userId,email,title\nu-1,a@b.c,'=1+1\n'-u,a@b.c,\"'@x, y\"\n";
        let expected = [
            r#"{"password":true,"userId":"u-1","email":"a@b.c","attributes":{"title":"=1+1"}}"#,
            r#"{"password":true,"userId":"-u","email":"a@b.c","attributes":{"title":"@x, y"}}"#,
        ];
        assert_eq!(bodies(csv).unwrap(), expected);
    }

    #[test]
    fn ndjson_lines_are_sent_as_they_are() {
        let text = "{\"userId\":\"u\",\"password\":true,\"email\":\"a@b\"}\n\n{\"password\":false}\n";
        assert_eq!(bodies(text).unwrap().len(), 2);
    }

    #[test]
    fn ndjson_has_columns_too_and_never_the_password() {
        let line = r#"{"userId":"u","password":"hunter2","emails":[{"value":"a@b"}],"attributes":{"title":"T","genesys:x":[1]}}"#;
        let cells = &read(line, None).unwrap().jobs[0].cells;
        let cells: Vec<(&str, &str)> = cells.iter().map(|(name, cell)| (name.as_str(), cell.as_str())).collect();
        assert_eq!(cells, [("userId", "u"), ("email", "a@b"), ("title", "T"), ("genesys:x", "[1]")]);
    }

    fn bad_in(text: &str, batch: Option<&str>, parts: &[&str]) {
        let error = read(text, batch).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
        assert!(!error.contains("hunter2"), "{error}");
    }

    fn bad(text: &str, parts: &[&str]) {
        bad_in(text, None, parts);
    }

    #[test]
    fn every_bad_line_is_named_by_its_number_and_its_column() {
        bad(
            "userId,email\nu-1,a@b\nu/2,a@b\nu-3\nu-4,nobody\n",
            &["3 of 4 lines", "line 3: userId", "line 4: it has 1 cells", "line 5: email", "nothing was sent"],
        );
        bad(
            "{\"userId\":\"u\",\"password\":true,\"email\":\"a@b\"}\n\n{\"userId\":\n{\"x\": hunter2}\n",
            &["2 of 3 lines", "line 3: column 10: it is not JSON", "line 4: column 7: it is not JSON"],
        );
        bad("userId,email,manager\nu,a@b,x\n", &["line 2: attributes: \"manager\" is not allowed"]);
        bad("userId,email,genesys:x\nu,a@b,[1\n", &["line 2: column genesys:x"]);
        bad(
            "userId,userName,email\nu,ann,a@b\n,,a@b\n",
            &["line 2: userName: it stands beside", "line 3: userId: it is missing"],
        );
        bad("email\na@b\n", &["no column userId"]);
        bad("userId,email,email\nu,a,b\n", &["stands twice"]);
        bad("userId,email\n", &["no jobs"]);
        bad("", &["no column userId"]);
    }

    #[test]
    fn all_bad_lines_are_listed_however_many() {
        let text = format!("userId,email\n{}", "u,nobody\n".repeat(300));
        bad(&text, &["300 of 300 lines", "line 2: email", "line 301: email"]);
    }

    #[test]
    fn quotes_and_line_breaks_in_cells_keep_the_line_numbers() {
        bad("userId,email,title\nu-1,a@b,\"two\nlines\"\nu/2,a@b,x\n", &["line 4: userId"]);
    }

    #[test]
    fn line_numbers_are_those_of_the_file_whatever_ends_a_line() {
        for end in ["\n", "\r\n", "\r"] {
            let csv =
                ["", "userId,email,genesys:x", "", "u-1,a@b,\"[1,", "2]\"", "u/2,a@b,", "", "u/3,a@b,", ""].join(end);
            bad(&csv, &["2 of 3 lines", "line 6: userId", "line 8: userId"]);
            let ndjson = ["", "{\"userId\":\"u\",\"password\":1,\"email\":\"a@b\"}", "", "{", "{}"].join(end);
            bad(&ndjson, &["1 of 3 lines", "line 4: column"]);
        }
    }

    #[test]
    fn an_unclosed_quote_drops_nobody_behind_it() {
        let csv = |last: &str| format!("userId,email,title\nok--1,a@example.com,\"Agent\nu-2,c@d,{last}\nu-3,e@f,x\n");
        bad(&csv("Lead"), &["line 2: cell 3: the quote that begins it is never closed", "nothing was sent"]);
        bad(&csv("\"Lead\""), &["line 2: cell 3: the quote", "line 3"]);
        // Closed by another row's: as CSV it is well formed, and two people stand in one cell.
        bad(&csv("Lead\""), &["line 2: column title", "line break", "nothing was sent"]);
        bad("userId,email,title\nu-1,a@b,\"\nu-2,c@d,\"\n", &["line 2: column title", "line break"]);
        bad("userId,email,reason\nu-1,a@b,\"x\nu-2,c@d,\"\n", &["line 2: column reason", "line break"]);
        bad("userId,\"email\nu-1,a@b\n", &["line 1: the header row cannot be read: cell 2"]);
        bad("userId,\"email\nu-1\",title\nu-2,a@b,x\n", &["line 1: the header row", "line break"]);
    }

    #[test]
    fn control_characters_in_a_value_are_an_error_unless_json_says_them() {
        for (cell, what) in [("a\tb", "a control character"), ("a\u{0}b", "a control"), ("a\u{2028}b", "a line break")]
        {
            let says = format!("line 2: column title: character 2 of 3 is {what}");
            bad(&format!("userId,email,title\nu-1,a@b,{cell}\n"), &[says.as_str()]);
        }
        let said = bodies("userId,email,title,genesys:x\nu-1,\ta@b ,\t Agent\t,\"[\"\"a\\nb\"\",\n1]\"\n").unwrap();
        let before =
            r#"{"password":true,"userId":"u-1","email":"a@b","attributes":{"title":"Agent","genesys:x":["a\nb","#;
        assert_eq!(said, [format!("{before}\n1]}}}}")]);
        let line = r#"{"userId":"u","password":true,"email":"a@b","attributes":{"title":"a\nb"}}"#;
        assert_eq!(bodies(line).unwrap(), [line]);
    }

    #[test]
    fn a_batch_names_its_jobs_by_their_users_of_whom_each_stands_once() {
        let text = "{\"userId\":\"u\",\"password\":1,\"email\":\"a@b\"}\n{\"userName\":\"A@b\",\"password\":1,\"email\":\"a@b\"}\n{}\n";
        let ids: Vec<_> = read(text, Some("agents")).unwrap().jobs.into_iter().filter_map(|job| job.id).collect();
        assert_eq!(ids, ["agents/u", "agents/A@b", "agents/#3"]);
        let cases = "userId,email\n0F6E7C1A-1f00,a@b\n0f6e7c1a-1F00,c@d\n";
        bad_in(cases, Some("b"), &["1 of 2 lines", "line 3: userId: the same user stands in line 2"]);
        assert_eq!(read(cases, None).unwrap().jobs.len(), 2);
        let twice = "userId,userName,email\nu,,a@b\n,Ann,a@b\nu,,c@d\n,aNN,a@b\n";
        assert_eq!(read(twice, None).unwrap().jobs.len(), 4, "jobs without a batch have ids of their own");
        bad_in(
            twice,
            Some("b"),
            &[
                "2 of 4 lines",
                "line 4: userId: the same user stands in line 2",
                "line 5: userName: the same user stands in line 3",
            ],
        );
        let long = format!("userName,email\n{},a@b\n", "n".repeat(250));
        bad_in(&long, Some("agents"), &["line 2: userName: with the batch's name before it, it has 257 bytes"]);
    }
}
