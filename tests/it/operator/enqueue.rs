//! `resetd enqueue` and `resetd batch` as processes, with a worker and a real broker; and the search for users by their names.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::operator::process::{Run, ends, says};
use crate::world::{Asked, Plan, Scribe, Taken, World, by_job, eventually, locked_out, named, unlimited};

/// Runs `enqueue` with a file of its own: exit code, stdout, stderr.
async fn enqueue(world: &World, arguments: &[&str], file: &str) -> (i32, String, String) {
    Run::of(world, &[&["enqueue", "-"], arguments].concat()).stdin(file).end().await
}

/// What `resetd batch NAME --once --json` says.
async fn batch(world: &World, name: &str) -> Value {
    let (code, out, said) = Run::of(world, &["batch", name, "--once", "--json"]).end().await;
    assert_eq!((code, said.as_str()), (0, ""), "{out}");
    serde_json::from_str(&out).unwrap()
}

/// `userId,email` for each of these users.
fn csv_of(users: &[String]) -> String {
    users.iter().fold("userId,email\n".to_owned(), |csv, user| csv + &format!("{user},{user}@example.com\n"))
}

/// An org that knows these names: `one…` is one user, `two…` two, `like…` nobody of exactly that name, `odd…` no answer that can be read.
fn by_name(asked: &Asked) -> Response {
    if asked.line.starts_with("PATCH") {
        let gone = asked.line.ends_with("/gone");
        let error = json!({"schemas": ["urn:ietf:params:scim:api:messages:2.0:Error"], "status": "404"});
        let not_found = || (StatusCode::NOT_FOUND, axum::Json(error)).into_response();
        return if gone { not_found() } else { StatusCode::NO_CONTENT.into_response() };
    }
    let url = reqwest::Url::parse(&asked.line.replace("GET ", "http://org")).unwrap();
    let filter = url.query_pairs().find(|(name, _)| name == "filter").unwrap().1.into_owned();
    let name: String = serde_json::from_str(filter.strip_prefix("userName eq ").unwrap()).unwrap();
    let user = |id: &str, name: &str| json!({"id": id, "userName": name, "active": true});
    let users = match name.split('-').next().unwrap() {
        "one" => vec![user("u-1", &name.to_uppercase())],
        "two" => vec![user("u-2", &name), user("u-3", &name)],
        "like" => vec![user("u-4", &format!("un{name}"))],
        "gone" => vec![user("gone", &name)],
        _ => return "<html>".into_response(),
    };
    axum::Json(json!({"schemas": [], "totalResults": users.len(), "Resources": users})).into_response()
}

fn of_name(name: &str) -> Value {
    json!({"userName": name, "password": true, "email": "ann@example.com"})
}

/// Calls a minute, and how many of them may come at once (`src/throttle/limiter.rs`: a burst of 1 has room for one that is late).
const RATE: u64 = 600;
const AT_ONCE: u64 = 2;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enqueue_names_every_bad_line_and_sends_nothing() {
    let mut world = Plan::new().start().await;
    world.stop_worker().await.unwrap();
    let run = Run::of(&world, &["enqueue", "--lane", "interactive", "users.csv"]);
    run.file("users.csv", "userId,email\nu-1,a@b\nu/2,a@b\nu-3,c@d\nu-4,nobody\n");
    ends(run, 1, &["2 of 4 lines", "line 3: userId", "line 5: email", "nothing was sent"]).await;
    let run = Run::of(&world, &["enqueue", "-"])
        .stdin("{\"userId\":\"u\",\"password\":true,\"email\":\"a@b\"}\n{\"userId\":1}\nx\n");
    ends(run, 1, &["line 3", "nothing was sent"]).await;
    for queue in ["resets.main", "resets.main.bulk"] {
        assert_eq!(world.depth(queue).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enqueue_without_its_org_file_or_topology_says_what_to_do() {
    let world = Plan::new().prepare().await;
    let csv = "userId,email\nu-1,a@b\n";
    let run = Run::of(&world, &["enqueue", "--org", "elsewhere", "-"]).stdin(csv);
    ends(run, 2, &["--org", "\"elsewhere\"", "main"]).await;
    ends(Run::of(&world, &["enqueue", "nowhere.csv"]), 1, &["nowhere.csv"]).await;
    ends(Run::of(&world, &["enqueue", "-"]).stdin(csv), 1, &["0 of 1 jobs", "resetd worker"]).await;
}

/// By id and by name: the user is the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_is_sent_again_with_its_users_in_another_case_resets_nobody_twice() {
    let world = Plan::new().start().await;
    world.reset("main", "AbC-1", "known").await;
    world.recorded(1).await;
    for (n, csv) in ["userId,email\nAbC-1,a@b\nAbC-2,c@d\n", "userId,email\naBc-1,a@b\nAbC-2,c@d\n"].iter().enumerate()
    {
        let run = Run::of(&world, &["enqueue", "--batch", "wave", "--wait", "-"]).stdin(csv);
        let (code, out, said) = run.end().await;
        assert_eq!(code, 0, "{out}{said}");
        assert_eq!(world.main().stats().password_sets, 3, "{n}");
    }
    let ends = world.recorded(4).await;
    let again = ends.iter().map(Taken::json).find(|end| end["jobId"] == "wave/aBc-1").unwrap();
    assert_eq!(again["outcome"], "duplicate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enqueue_takes_csv_and_ndjson_into_both_lanes() {
    let mut world = Plan::new().start().await;
    world.stop_worker().await.unwrap();
    let csv = "userId,email,title\nu-1,a@b,Agent\nu-2,c@d,\n";
    let ndjson = "{\"userId\":\"u-3\",\"password\":true,\"email\":\"e@f\"}\n{\"userId\":\"u-4\"}\n";
    let from_file = Run::of(&world, &["enqueue", "--org", "main", "jobs.txt"]);
    from_file.file("jobs.txt", csv);
    let (code, out, said) = from_file.end().await;
    assert_eq!((code, said.as_str()), (0, ""), "{out}");
    says(&out, &["2 jobs queued for org main, lane bulk"]);
    let from_stdin = Run::of(&world, &["enqueue", "--lane", "interactive", "-"]).stdin(ndjson);
    let (code, out, said) = from_stdin.end().await;
    assert_eq!((code, said.as_str()), (0, ""), "{out}");
    says(&out, &["2 jobs queued for org main, lane interactive", "1 of them ask for no reset"]);

    let now = jiff::Timestamp::now().as_second();
    let mut ids = std::collections::BTreeSet::new();
    let expected = [
        (
            "resets.main.bulk",
            [
                json!({"password": true, "userId": "u-1", "email": "a@b", "attributes": {"title": "Agent"}}),
                json!({"password": true, "userId": "u-2", "email": "c@d"}),
            ],
        ),
        ("resets.main", [json!({"userId": "u-3", "password": true, "email": "e@f"}), json!({"userId": "u-4"})]),
    ];
    for (queue, bodies) in expected {
        // They are published at once, and a lane promises no order.
        let mut jobs = world.drained(queue).await;
        jobs.sort_by_key(|job| job.json()["userId"].to_string());
        assert_eq!(jobs.iter().map(|job| job.json()).collect::<Vec<_>>(), bodies);
        for job in &jobs {
            assert_eq!(job.properties.delivery_mode(), &Some(2));
            let asked = i64::try_from(job.properties.timestamp().unwrap()).unwrap();
            assert!((now - 30..=now).contains(&asked), "{asked}");
            assert_eq!(job.id().len(), 36);
            ids.insert(job.id().to_owned());
        }
    }
    assert_eq!(ids.len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_failed_is_written_with_its_reasons_resolved_and_sent_again() {
    let world = Plan::new().start().await;
    let file = "userId,userName,email,title\nu-1,,a@b,Agent\n,u-2@example.com,c@d,\n,nobody@elsewhere.com,e@f,\"Agent, senior\"\n";
    let run = Run::of(&world, &["enqueue", "agents.csv", "--batch", "agents", "--wait", "--failed", "failed.csv"]);
    run.file("agents.csv", file);
    let failed = run.file("failed.csv", "what stood there before");
    let mut process = run.start();
    let code = process.ended().await;
    let (out, said) = (process.stdout(), process.stderr());
    assert_eq!(code, 1, "{out}{said}");
    says(&out, &["3 jobs queued for org main, lane bulk, batch agents", "│ done", "│ failed"]);
    says(&said, &["1 jobs were given up", "fix it and send it again"]);
    let rest = std::fs::read_to_string(&failed).unwrap();
    let expected = "userId,userName,email,title,reason,detail\n,nobody@elsewhere.com,e@f,\"Agent, senior\",not_found,userName: the org knows no user of exactly this name\n";
    assert_eq!(rest, expected);
    let seen = batch(&world, "agents").await;
    assert_eq!(
        (&seen["jobs"], &seen["done"], &seen["succeeded"], &seen["failed"], &seen["complete"]),
        (&json!(3), &json!(3), &json!(2), &json!(1), &json!(true)),
        "{seen}"
    );

    let resolved = rest.replace("nobody@elsewhere.com", "u-3@example.com");
    let (code, out, said) = enqueue(&world, &["--batch", "agents", "--wait"], &resolved).await;
    assert_eq!(code, 0, "{out}{said}");
    let outcomes = by_job(&world.recorded(4).await);
    let of =
        |job: &str| (outcomes[job]["outcome"].clone(), outcomes[job]["userId"].clone(), outcomes[job]["batch"].clone());
    assert_eq!(of("agents/u-1"), (json!("succeeded"), json!("u-1"), json!("agents")));
    assert_eq!(of("agents/u-2@example.com"), (json!("succeeded"), json!("u-2"), json!("agents")));
    assert_eq!(of("agents/u-3@example.com"), (json!("succeeded"), json!("u-3"), json!("agents")));
    assert_eq!(of("agents/nobody@elsewhere.com"), (json!("failed"), json!(null), json!("agents")));
    let mails = world.drained("emails").await;
    assert_eq!(mails.len(), 3);
    assert_eq!(locked_out(world.main(), &mails), Vec::<String>::new());

    // The whole file once more: nobody is reset twice.
    let (code, out, said) = enqueue(&world, &["--batch", "agents", "--wait"], file).await;
    assert_eq!(code, 1, "{out}{said}");
    says(&out, &["done before (duplicate) ┆ 2"]);
    assert_eq!(world.main().stats().password_sets, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_enqueue_that_is_killed_again_and_again_loses_nobody_and_resets_nobody_twice() {
    let world = Plan::new().start().await;
    let users: Vec<String> = (0..400).map(|n| format!("u-{n}")).collect();
    let csv = csv_of(&users);
    for round in 1..=4 {
        let run = Run::of(&world, &["enqueue", "agents.csv", "--batch", "agents"]);
        run.file("agents.csv", &csv);
        let mut process = run.start();
        eventually("some are done, or it was quicker", async || {
            let done = world.main().stats().password_sets >= round * 40 + rand::random_range(0..40);
            (done || process.has_ended().is_some()).then_some(())
        })
        .await;
        process.kill().await;
    }
    let (code, out, said) = enqueue(&world, &["--batch", "agents", "--wait"], &csv).await;
    assert_eq!(code, 0, "{out}{said}");
    let sets: BTreeSet<(String, u64)> =
        users.iter().map(|user| (user.clone(), world.main().user(user).unwrap().password_sets)).collect();
    assert_eq!(sets, users.iter().map(|user| (user.clone(), 1)).collect());
    assert_eq!(locked_out(world.main(), &world.drained("emails").await), Vec::<String>::new());
    let seen = batch(&world, "agents").await;
    assert_eq!((&seen["jobs"], &seen["succeeded"], &seen["failed"]), (&json!(400), &json!(400), &json!(0)), "{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_thousand_lines_go_in_each_once_and_in_one_go() {
    let mut world = Plan::new().start().await;
    world.stop_worker().await.unwrap();
    let users: Vec<String> = (0..3000).map(|n| format!("u-{n}")).collect();
    let began = std::time::Instant::now();
    let (code, out, said) = enqueue(&world, &["--batch", "agents"], &csv_of(&users)).await;
    eprintln!("3,000 lines: {:?}", began.elapsed());
    assert_eq!((code, said.as_str()), (0, ""), "{out}");
    says(&out, &["3000 jobs queued", "resetd batch agents"]);
    let jobs = world.drained("resets.main.bulk").await;
    assert_eq!(jobs.len(), 3000);
    let ids: BTreeSet<&str> = jobs.iter().map(|job| job.id()).collect();
    assert_eq!(ids.len(), 3000);
    assert_eq!(jobs[0].header("batch").as_deref(), Some("agents"));
    let seen = batch(&world, "agents").await;
    assert_eq!(
        (&seen["jobs"], &seen["waiting"], &seen["complete"]),
        (&json!(3000), &json!(3000), &json!(false)),
        "{seen}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stops_waiting_leaves_the_jobs_running_and_may_look_again() {
    let mut world = Plan::new().start().await;
    world.stop_worker().await.unwrap();
    let run = Run::of(&world, &["enqueue", "-", "--wait"]).stdin("userId,email\nu-1,a@b\nu-2,c@d\n");
    let mut process = run.start();
    eventually("it waits", async || process.stderr().contains("0 of 2 done").then_some(())).await;
    process.signal("INT");
    assert_eq!(process.ended().await, 0, "{}", process.stderr());
    let out = process.stdout();
    let name = out.split("resetd batch ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    says(&out, &[&format!("batch {name}"), "the jobs go on without this"]);
    let mut looking = Run::of(&world, &["batch", &name]).start();
    eventually("it looks", async || looking.stderr().contains("0 of 2 done").then_some(())).await;
    world.start_worker().await;
    assert_eq!(looking.ended().await, 0, "{}", looking.stderr());
    says(&looking.stdout(), &[&name, "│ jobs", "│ succeeded"]);
    assert_eq!(batch(&world, &name).await["succeeded"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_of_which_nothing_is_known_says_so() {
    let mut world = Plan::new().start().await;
    world.stop_worker().await.unwrap();
    ends(Run::of(&world, &["batch", "never-sent", "--once"]), 1, &["nothing is known of batch \"never-sent\"", "main"])
        .await;
    let nowhere = Plan::new().prepare().await;
    ends(Run::of(&nowhere, &["batch", "never-sent"]), 1, &["resets.outcomes", "resetd worker"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_sends_nothing_and_what_cannot_be_meant_is_refused() {
    let mut world = Plan::new().start().await;
    world.stop_worker().await.unwrap();
    let file = "userName,email\nann@example.com,a@b\n";
    let (code, out, said) = enqueue(&world, &["--dry-run", "--batch", "b"], file).await;
    assert_eq!((code, said.as_str()), (0, ""), "{out}");
    says(&out, &["1 jobs are valid for org main, lane bulk, batch b; nothing was sent"]);
    for (arguments, part) in [
        (vec!["--batch", "a/b"], "without \"/\""),
        (vec!["--batch", ""], "1 to 100 characters"),
        (vec!["--not-after", "tomorrow"], "--not-after"),
        (
            vec!["--not-before", "2099-01-02T00:00:00Z", "--not-after", "2099-01-01T00:00:00Z"],
            "later than --not-before",
        ),
        (vec!["--failed", "f.csv"], "--wait"),
        (vec!["--dry-run", "--wait"], "--wait"),
    ] {
        let (code, out, said) = enqueue(&world, &arguments, file).await;
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {said}");
        says(&said, &[part]);
    }
    let unwritable = ["--wait", "--failed", "no/such/folder.csv"];
    let (code, _, said) = enqueue(&world, &unwritable, file).await;
    assert_eq!(code, 1, "{said}");
    says(&said, &["--failed no/such/folder.csv cannot be written"]);
    let twice = "userId,email\nu-1,a@b\nu-1,c@d\n";
    let (code, _, said) = enqueue(&world, &["--batch", "b"], twice).await;
    assert_eq!(code, 1, "{said}");
    says(&said, &["line 3: userId: the same user stands in line 2", "nothing was sent"]);
    assert_eq!(world.depth("resets.main.bulk").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wished_of_all_jobs_is_in_their_headers() {
    let mut world = Plan::new().start().await;
    world.stop_worker().await.unwrap();
    let wishes = ["--not-before", "2099-01-01T00:00:00+01:00", "--not-after", "2099-01-02T00:00:00Z", "--batch", "b"];
    let (code, out, said) = enqueue(&world, &wishes, "userName,email\nann@example.com,a@b\n").await;
    assert_eq!((code, said.as_str()), (0, ""), "{out}");
    let jobs = world.drained("resets.main.bulk").await;
    let header = |name| jobs[0].header(name);
    assert_eq!(jobs[0].id(), "b/ann@example.com");
    assert_eq!(header("not-before").as_deref(), Some("2098-12-31T23:00:00Z"));
    assert_eq!((header("not-after").as_deref(), header("batch").as_deref()), (Some("2099-01-02T00:00:00Z"), Some("b")));
    assert_eq!(jobs[0].json(), json!({"password": true, "userName": "ann@example.com", "email": "a@b"}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_searched_for_once_and_only_one_user_of_exactly_that_name_is_taken() {
    let scribe = Scribe::answering(by_name).await;
    let world = scribe.start(Plan::new().config("[retry]\nmax_attempts = 2")).await;
    for name in ["one-\"a\\b\"", "two-x", "like-x", "odd-x"] {
        world.send(name, &of_name(name)).await;
    }
    let ends = by_job(&world.recorded(4).await);
    let of = |job: &str| {
        let end = &ends[job];
        json!([end["outcome"], end["reason"], end["userId"], end["passwordSet"], end["attempts"]])
    };
    assert_eq!(of("one-\"a\\b\""), json!(["succeeded", null, "u-1", "yes", 1]));
    assert_eq!(of("two-x"), json!(["failed", "ambiguous_user", null, "no", 0]));
    assert_eq!(of("like-x"), json!(["failed", "not_found", null, "no", 0]));
    assert_eq!(of("odd-x"), json!(["failed", "retries_exhausted", null, "no", 2]));
    let lines: Vec<String> = scribe.asked().iter().map(|asked| asked.line.clone()).collect();
    let search = "GET /api/v2/scim/v2/Users?filter=userName%20eq%20%22one-%5C%22a%5C%5Cb%5C%22%22";
    assert!(lines.iter().any(|line| line == search), "{lines:?}");
    // The same user by the same name in another case: known already.
    world.send("again", &of_name("ONE-\"a\\B\"")).await;
    world.recorded(5).await;
    let searches =
        scribe.asked().iter().filter(|asked| asked.line.contains("one-") || asked.line.contains("ONE-")).count();
    assert_eq!(searches, 1);
    for asked in scribe.asked().iter().filter(|asked| asked.line.starts_with("GET")) {
        assert_eq!(asked.headers["authorization"], "Bearer the-bearer-token");
        assert_eq!(asked.headers["accept"], "application/scim+json");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_is_gone_is_searched_for_anew_the_next_time() {
    let scribe = Scribe::answering(by_name).await;
    let world = scribe.start(Plan::new()).await;
    for job in ["first", "second"] {
        world.send(job, &of_name("gone-x")).await;
    }
    let ends = by_job(&world.recorded(2).await);
    for job in ["first", "second"] {
        assert_eq!(
            (&ends[job]["reason"], &ends[job]["userId"]),
            (&json!("not_found"), &json!("gone")),
            "{}",
            ends[job]
        );
    }
    assert_eq!(scribe.asked().iter().filter(|asked| asked.line.starts_with("GET")).count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_is_tried_again_as_a_patch_is_and_sets_nothing() {
    let world = Plan::new().prepare().await;
    world.main().add_fault(crate::world::fault("status=500,next=2"));
    let mut world = world;
    world.start_worker().await;
    world.ready().await;
    world.send("job", &of_name("u-1@example.com")).await;
    let end = &by_job(&world.recorded(1).await)["job"];
    assert_eq!(
        json!([end["outcome"], end["userId"], end["passwordSet"], end["attempts"]]),
        json!(["succeeded", "u-1", "yes", 3]),
        "{end}"
    );
    // Older than the newest reset of the user whose name it is.
    let old = named("old").with_timestamp(1_700_000_000);
    let new = named("new").with_timestamp(1_700_000_001);
    world.publish("main", json!({"userId": "u-9", "password": true, "email": "a@b"}).to_string().as_bytes(), new).await;
    world.recorded(2).await;
    world.publish("main", of_name("u-9@example.com").to_string().as_bytes(), old).await;
    let ends = by_job(&world.recorded(3).await);
    assert_eq!((&ends["old"]["outcome"], &ends["old"]["userId"]), (&json!("superseded"), &json!("u-9")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_of_one_user_by_name_and_by_id_never_run_at_once() {
    let settings = crate::world::slow();
    let world = Plan::new().org("main", settings, "").start().await;
    for n in 0..10 {
        world.send(&format!("name-{n}"), &of_name("u-1@example.com")).await;
        world.send(&format!("id-{n}"), &json!({"userId": "u-1", "password": true, "email": "a@b"})).await;
    }
    let ends = by_job(&world.recorded(20).await);
    assert!(ends.values().all(|end| end["outcome"] == "succeeded"), "{ends:?}");
    assert_eq!(world.main().stats().peak_in_flight, 1);
    assert_eq!(locked_out(world.main(), &world.drained("emails").await), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn searches_and_patches_together_keep_to_the_quota() {
    let world = Plan::new().org("main", unlimited(), &format!("rate_per_minute = {RATE}")).start().await;
    for n in 0..20 {
        world.send(&format!("job-{n}"), &of_name(&format!("u-{n}@example.com"))).await;
    }
    world.recorded(20).await;
    let stats = world.main().stats();
    assert_eq!((stats.calls, stats.reads, stats.peak_per_minute), (20, 20, 40), "each job is a search and a PATCH");
    let took = stats.last_call_ms.unwrap() - stats.first_call_ms.unwrap();
    // A fifth less: the first call may be long on its way. Half of them by the limiter alone would take half as long.
    let least = (stats.peak_per_minute - AT_ONCE) * 60_000 / RATE * 4 / 5;
    assert!(took >= least, "{} calls in {took} ms, where {least} is the least", stats.peak_per_minute);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn help_says_what_to_do_with_examples() {
    for role in ["enqueue", "batch"] {
        let (code, out, said) = Run::new(&[role, "--help"]).end().await;
        assert_eq!((code, said.as_str()), (0, ""));
        insta::assert_snapshot!(format!("help of {role}"), out);
    }
}
