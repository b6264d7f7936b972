//! What a person sees on a terminal of 80 columns: a bar that moves, colours unless they are not wanted, and a question before
//! anything is changed.

use crate::operator::dead::{DEAD, dead, dead_letter, declared, many};
use crate::operator::process::{Process, Run, says};
use crate::world::{Plan, World, unlimited};

/// How often the number before `/TOTAL` changes in what was drawn.
fn positions(drawn: &str, total: usize) -> Vec<usize> {
    let mut seen: Vec<usize> = Vec::new();
    for before in drawn.split(&format!("/{total}")) {
        let digits = before.chars().rev().take_while(char::is_ascii_digit).collect::<Vec<_>>();
        let Ok(position) = digits.into_iter().rev().collect::<String>().parse() else { continue };
        if seen.last() != Some(&position) {
            seen.push(position);
        }
    }
    seen
}

/// What stood on the terminal at one moment: the parts between returns and line feeds, without what moves the cursor or colours.
fn frames(drawn: &str) -> Vec<String> {
    let frames = drawn.split(['\r', '\n']).map(|frame| {
        let mut plain = String::new();
        let mut escaped = false;
        for c in frame.chars() {
            match (escaped, c) {
                (false, '\x1b') => escaped = true,
                (true, c) => escaped = !c.is_ascii_alphabetic(),
                (false, c) => plain.push(c),
            }
        }
        plain
    });
    frames.filter(|frame| !frame.trim().is_empty()).collect()
}

/// Whether anything in it is coloured, by a sequence such as `ESC [ 3 2 m`.
fn is_coloured(drawn: &str) -> bool {
    (30..=37).any(|colour| drawn.contains(&format!("\x1b[{colour}m")))
}

/// Sends 30 jobs of a batch that take 6 s, and follows them: all that was drawn.
async fn followed(environment: &[(&str, &str)]) -> String {
    let world = Plan::new().org("main", unlimited(), "rate_per_minute = 300").start().await;
    let mut run = Run::of(&world, &["enqueue", "--batch", "agents", "--wait", "agents.csv"]);
    let rows = (0..30).fold("userId,email\n".to_owned(), |csv, n| csv + &format!("u-{n},u-{n}@example.com\n"));
    run.file("agents.csv", &rows);
    for (name, value) in environment {
        run = run.env(name, value);
    }
    let mut process = run.on_terminal().start();
    assert_eq!(process.ended().await, 0, "{}", process.stdout());
    process.stdout()
}

/// Runs `dead replay` on a terminal, and answers its question.
async fn answered(world: &World, answer: &str) -> Process {
    let mut process = dead(world, &["replay", "--all"]).stdin(answer).on_terminal().start();
    assert_eq!(process.ended().await, 0, "{}", process.stdout());
    process
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bar_moves_in_80_columns_says_when_it_ends_and_leaves_a_table() {
    let drawn = followed(&[]).await;
    let positions = positions(&drawn, 30);
    let distinct: std::collections::BTreeSet<_> = positions.iter().collect();
    assert!(distinct.len() > 3, "{positions:?} in {drawn:?}");
    let frames = frames(&drawn);
    for frame in &frames {
        assert!(frame.chars().count() <= 80, "{} columns: {frame:?}", frame.chars().count());
    }
    assert!(frames.iter().any(|frame| frame.contains(" in the last 60 s") && frame.ends_with(" left")), "{frames:?}");
    assert!(is_coloured(&drawn));
    // The bar is taken away, and what stays is the table.
    assert!(frames.last().unwrap().starts_with('└'), "{frames:?}");
    let table = &drawn[drawn.rfind('┌').unwrap()..];
    says(table, &["│ succeeded", "30", "from first to last"]);
    assert!(!table.contains("/30"), "{table:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_color_is_honoured_on_a_terminal() {
    let drawn = followed(&[("NO_COLOR", "1")]).await;
    assert!(drawn.contains("/30") && !is_coloured(&drawn), "{drawn:?}");
    let help = async |run: Run| {
        let mut process = run.on_terminal().start();
        assert_eq!(process.ended().await, 0);
        process.stdout()
    };
    let styled = help(Run::new(&["dead", "--help"])).await;
    assert!(styled.contains("\x1b["), "{styled:?}");
    let plain = help(Run::new(&["dead", "--help"]).env("NO_COLOR", "1")).await;
    says(&plain, &["resetd dead replay"]);
    assert!(!plain.contains("\x1b["), "{plain:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_asks_and_does_nothing_where_the_answer_is_not_yes() {
    let world = declared().await;
    dead_letter(&world, many(3)).await;
    for no in ["n\n", "\n", "maybe\n"] {
        let said = answered(&world, no).await.stdout();
        says(&said, &["org main: 3 letters of 3 to be replayed", "[y/N]", "nothing was changed"]);
        assert_eq!(world.depth(DEAD).await, 3, "{no:?}");
    }
    assert_eq!(world.in_the_lanes().await, 0);
    let said = answered(&world, "y\n").await.stdout();
    says(&said, &["[y/N]", "org main: 3 letters replayed"]);
    assert_eq!(world.in_the_lanes().await, 3);
}
