//! Templates that cannot be filled in where no sample led.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_that_cannot_be_filled_in_halts_processing_and_gives_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, source: &str| std::fs::write(folder.path().join(name), source).unwrap();
    write("subject.txt", "Your new password");
    write("body.txt", "{{ password }}{% if userId == 'u-1' %}{{ org.name.short }}{% endif %}");
    let setup = Setup::new(Postbox::new(), "").await;
    let own = format!("[mailer]\ntemplates = {:?}\n", folder.path());
    let start = || Run::of(&setup.world, &["--log", "json", "mailer"]).config(&own).start();
    let mut mailer = start();
    let http = mailer.http().await;
    role_is(&http, "active").await;
    setup.notify(&note(1, 0)).await;
    let why = eventually("processing halts", async || {
        let (status, ready) = readyz(&http).await?;
        (status == 503).then(|| ready["mailer"].clone())
    })
    .await;
    assert_eq!(why["role"], "halted");
    says(why["reason"].as_str().unwrap(), &["no mail can be written", "body.txt", "mailer.templates"]);
    assert_eq!(mailer.terminated().await.0, 0, "{}", mailer.stderr());
    assert_eq!(setup.world.depth("emails.dead").await, 0);

    write("body.txt", "{{ password }}");
    let mut mailer = start();
    assert_eq!(setup.letters(1).await[0].to, "u-1@example.com");
    records(&setup.world, 1).await;
    assert_eq!(mailer.terminated().await.0, 0, "{}", mailer.stderr());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mailer_that_the_workers_are_not_told_of_warns_and_its_samples_need_no_token() {
    let folder = tempfile::tempdir().unwrap();
    let samples = folder.path().join("samples");
    let smtp = "[amqp]\nurl = \"amqp://127.0.0.1:1\"\n[mailer]\nfrom = \"a@example.com\"\n[mailer.smtp]\nhost = \"127.0.0.1\"\n";
    let open = format!("[http]\nlisten = \"0.0.0.0:9464\"\n{smtp}");
    crate::operator::process::ends(Run::new(&["mailer"]).config(&open), 2, &["http.token"]).await;
    let run = Run::new(&["mailer", "--preview", samples.to_str().unwrap()]).config(&open);
    let (code, out, said) = run.end().await;
    assert_eq!(code, 0, "{said}");
    says(&out, &["en.eml"]);

    let mut mailer = Run::new(&["mailer"]).config(&format!("[http]\nlisten = \"127.0.0.1:0\"\n{smtp}")).start();
    eventually("it warns", async || mailer.stderr().contains("mailer.enabled is false").then_some(())).await;
    assert_eq!(mailer.terminated().await.0, 0, "{}", mailer.stderr());
}
