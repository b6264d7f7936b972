//! `GET` on SCIM Users: one of them, and the list with its filter (RFC 7644, sections 3.4.1 and 3.4.2).

use std::collections::HashMap;

use axum::{
    extract::{ConnectInfo, Path, Query, State},
    http::HeaderMap,
    response::Response,
};
use serde_json::{Value, json};

use super::{
    answer::Answer,
    fault::Target,
    incoming,
    invalid::{Invalid, ScimType},
    media,
    org::Org,
    play,
    socket::Wire,
};

const LIST_SCHEMA: &str = "urn:ietf:params:scim:api:messages:2.0:ListResponse";
/// How many users a page has where the caller does not say, and at most.
const PAGE: usize = 25;
const LONGEST_PAGE: usize = 100;

pub(super) async fn user(
    State(org): State<Org>,
    ConnectInfo(wire): ConnectInfo<Wire>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let faulty = faulty(&org, &wire, Some(&id)).await;
    let response = faulty.unwrap_or_else(|| org.write(show(&org, &id, &headers).unwrap_or_else(|no| no)));
    org.hold_back().await;
    response
}

pub(super) async fn users(
    State(org): State<Org>,
    ConnectInfo(wire): ConnectInfo<Wire>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let faulty = faulty(&org, &wire, None).await;
    let response = faulty.unwrap_or_else(|| org.write(list(&org, &query, &headers).unwrap_or_else(|no| no)));
    org.hold_back().await;
    response
}

async fn faulty(org: &Org, wire: &Wire, id: Option<&str>) -> Option<Response> {
    let what = org.read().script.take(Target::Scim, id, org.now())?;
    play::other(org, wire, what).await
}

fn show(org: &Org, id: &str, headers: &HeaderMap) -> Result<Answer, Answer> {
    org.admit(headers)?;
    media::check_accept(headers)?;
    let state = org.state();
    if state.users.exists(id) { Ok(Answer::ok(state.users.resource(id))) } else { Err(incoming::unknown_user(id)) }
}

fn list(org: &Org, query: &HashMap<String, String>, headers: &HeaderMap) -> Result<Answer, Answer> {
    org.admit(headers)?;
    media::check_accept(headers)?;
    let wanted = query.get("filter").map(|filter| user_name_of(filter)).transpose()?;
    let state = org.state();
    let ids = match wanted {
        Some(name) => state.users.find(&name).into_iter().collect(),
        None => state.users.ids(),
    };
    let start = number(query, "startIndex")?.unwrap_or(1).max(1);
    let count = number(query, "count")?.unwrap_or(PAGE).min(LONGEST_PAGE);
    let page: Vec<Value> = ids.iter().skip(start - 1).take(count).map(|id| state.users.resource(id)).collect();
    Ok(Answer::ok(json!({
        "schemas": [LIST_SCHEMA], "totalResults": ids.len(), "startIndex": start, "itemsPerPage": page.len(),
        "Resources": page,
    })))
}

/// The name in `userName eq "name"`, the one filter there is.
fn user_name_of(filter: &str) -> Result<String, Invalid> {
    let mut words = filter.trim().splitn(3, ' ');
    let (attribute, operator, value) = (words.next(), words.next(), words.next());
    let known = attribute.is_some_and(|word| word.eq_ignore_ascii_case("userName"))
        && operator.is_some_and(|word| word.eq_ignore_ascii_case("eq"));
    let name = value.filter(|_| known).and_then(|value| serde_json::from_str(value.trim()).ok());
    name.ok_or_else(|| Invalid::new(ScimType::InvalidFilter, "`filter` must be userName eq \"...\""))
}

fn number(query: &HashMap<String, String>, name: &str) -> Result<Option<usize>, Invalid> {
    let wrong = |_| Invalid::new(ScimType::InvalidValue, format!("`{name}` must be a whole number"));
    query.get(name).map(|text| text.parse().map_err(wrong)).transpose()
}
