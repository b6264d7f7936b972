//! Templates that cannot be filled in where no sample led.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_that_cannot_be_filled_in_stops_the_line_and_gives_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, source: &str| std::fs::write(folder.path().join(name), source).unwrap();
    write("subject.txt", "Your new password");
    write("body.txt", "{{ password }}{% if userId == 'u-1' %}{{ org.name.short }}{% endif %}");
    let scene = Scene::new(Postbox::new(), "").await;
    let own = format!("[mailer]\ntemplates = {:?}\n", folder.path());
    let start = || Run::of(&scene.world, &["--log", "json", "mailer"]).config(&own).start();
    let mut mailer = start();
    let http = mailer.http().await;
    role_is(&http, "active").await;
    scene.notify(&note(1, 0)).await;
    let why = eventually("the line stops", async || {
        let (status, ready) = readyz(&http).await?;
        (status == 503).then(|| ready["mailer"].clone())
    })
    .await;
    assert_eq!(why["role"], "stopped");
    says(why["reason"].as_str().unwrap(), &["no mail can be written", "body.txt", "mailer.templates"]);
    assert_eq!(mailer.terminated().await.0, 0, "{}", mailer.stderr());
    assert_eq!(scene.world.depth("emails.dead").await, 0);

    write("body.txt", "{{ password }}");
    let mut mailer = start();
    assert_eq!(scene.letters(1).await[0].to, "u-1@example.com");
    records(&scene.world, 1).await;
    assert_eq!(mailer.terminated().await.0, 0, "{}", mailer.stderr());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mailer_that_takes_no_part_does_not_start_and_shows_its_samples() {
    let folder = tempfile::tempdir().unwrap();
    let samples = folder.path().join("samples");
    let open =
        "[http]\nlisten = \"0.0.0.0:9464\"\n[mailer]\nfrom = \"a@example.com\"\n[mailer.smtp]\nhost = \"127.0.0.1\"\n";
    let run = |arguments: &[&str]| Run::new(arguments).config(open);
    crate::process::ends(run(&["mailer"]), 2, &["mailer.enabled is false", "true"]).await;
    let (code, out, said) = run(&["mailer", "--preview", samples.to_str().unwrap()]).end().await;
    assert_eq!(code, 0, "{said}");
    says(&out, &["en.eml"]);
}
