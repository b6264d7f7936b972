//! Which templates are taken, what they write, and in which words the others are refused.

use std::num::NonZeroU32;
use std::time::Duration;

use super::*;

fn settings(folder: Option<&Path>) -> Settings {
    Settings {
        enabled: true,
        rate_per_minute: NonZeroU32::MIN,
        timeout: Duration::from_secs(1),
        max_attempts: NonZeroU32::MIN,
        retry_max: Duration::from_secs(600),
        templates: folder.map(Path::to_owned),
        language: Language::parse("en").unwrap(),
        open_with: vec![],
        require_sealed: false,
    }
}

/// A folder with these files over three that are well.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let well = [
        ("subject.txt", "Hello {{ org }}\n"),
        ("body.txt", "It is {{ password }}\nfor {{ userId }}"),
        ("body.html", "<b>{{ password }}</b>"),
    ];
    for (name, text) in well.iter().chain(files) {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    folder
}

fn refused(files: &[(&str, &str)], parts: &[&str]) {
    let folder = folder(files);
    let error = Templates::load(&settings(Some(folder.path()))).expect_err(&format!("{files:?}")).to_string();
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

fn mail(templates: &Templates, language: Option<&str>) -> Mail {
    let (mut note, words) = sample(&Language::parse("en").unwrap());
    note.language = language.and_then(Language::parse);
    templates.mail(&note, &words).unwrap()
}

#[test]
fn without_templates_a_mail_says_what_the_notification_says() {
    let mail = mail(&Templates::load(&settings(None)).unwrap(), Some("de"));
    assert_eq!(mail.subject, "Genesys Cloud Temporary Password Reset");
    assert_eq!(*mail.text, format!("Your temporary password is: {SAMPLE}. Please log in and change it immediately."));
    assert!(mail.html.is_none());
}

#[test]
fn a_person_is_written_to_in_their_language_or_the_next_wider_one_or_that_of_the_folder() {
    let of = |language: &str, html: bool| {
        let mut files = vec![(format!("{language}/subject.txt"), language.to_owned())];
        files.push((format!("{language}/body.txt"), "{{ language }} {{ password }}".to_owned()));
        files.extend(html.then(|| (format!("{language}/body.html"), "{{ password }}".to_owned())));
        files
    };
    let files: Vec<_> = [of("pt", false), of("pt-BR", true), of("de", false)].concat();
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let folder = folder(&files);
    let templates = Templates::load(&settings(Some(folder.path()))).unwrap();
    let languages: Vec<String> = templates.languages().map(ToString::to_string).collect();
    assert_eq!(languages, ["en", "de", "pt", "pt-BR"]);
    for (wanted, subject) in [
        (Some("pt-br"), "pt-BR"),
        (Some("pt_BR"), "pt-BR"),
        (Some("pt-PT"), "pt"),
        (Some("DE-AT-1996"), "de"),
        (Some("fr"), "Hello main"),
        (None, "Hello main"),
    ] {
        assert_eq!(mail(&templates, wanted).subject, subject, "{wanted:?}");
    }
    let mail = mail(&templates, Some("de"));
    assert_eq!(
        (mail.text.as_str(), mail.html.is_none()),
        (&*format!("de {SAMPLE}"), true),
        "no HTML of another language"
    );
}

#[test]
fn values_are_escaped_in_html_alone() {
    let folder = folder(&[]);
    let mail = mail(&Templates::load(&settings(Some(folder.path()))).unwrap(), None);
    assert!(mail.text.contains(SAMPLE), "{}", *mail.text);
    let html = mail.html.unwrap();
    assert!(!html.contains(SAMPLE) && html.contains("Sample&lt;b&gt;&amp;amp;&quot;"), "{}", *html);
}

#[test]
fn what_is_unknown_or_not_well_formed_is_refused_with_its_file_and_line() {
    refused(&[("body.txt", "{{ password }}\n{{ pasword }}")], &["body.txt line 2", "\"pasword\"", "issuedAt"]);
    refused(
        &[("body.txt", "{{ password }}\n{% if org == 'x' %}\n{{ name }}{% endif %}")],
        &["body.txt line 3", "name"],
    );
    refused(&[("body.txt", "{{ password }}\n\n{% if %}")], &["body.txt line 3"]);
    refused(&[("body.txt", "{{ password|nothing }}")], &["body.txt line 1", "nothing"]);
    refused(&[("body.html", "{{ password }}{% include 'gone.html' %}")], &["body.html", "gone.html"]);
    refused(&[("body.html", "{% extends 'l.html' %}"), ("l.html", "\n{{ password }}{{ other }}")], &["l.html line 2"]);
    // Where no sample leads: in a file that is included, or that only might be.
    let aside = "{{ password }}{% if org == 'x' %}{% include 'part.txt' %}{% endif %}";
    refused(&[("body.txt", aside), ("part.txt", "\n\n{{ nmae }}")], &["part.txt line 3", "\"nmae\""]);
    refused(&[("de/subject.txt", "x"), ("de/body.txt", aside), ("part.txt", "{{ nmae }}")], &["part.txt line 1"]);
    refused(&[("de/subject.txt", "x"), ("de/body.txt", "{{ password }}\n{{ x }}")], &["de/body.txt line 2"]);
}

#[test]
fn a_mail_that_must_not_be_sent_is_refused_before_the_first() {
    refused(&[("subject.txt", "new: {{ password }}")], &["subject.txt line 1", "must not hold the password"]);
    refused(&[("subject.txt", "{% include 'body.txt' %}")], &["body.txt", "undefined"]);
    refused(&[("subject.txt", " \n")], &["subject.txt", "one line"]);
    refused(&[("subject.txt", "a\nb")], &["subject.txt", "one line"]);
    refused(&[("body.txt", "hello")], &["body.txt", "{{ password }}"]);
    refused(&[("body.txt", "{{ password|upper }}")], &["body.txt", "{{ password }}"]);
    refused(&[("body.html", "<p>hello</p>")], &["body.html", "{{ password }}"]);
    refused(&[("body.html", "{{ password|safe }}")], &["body.html", "not escaped"]);
    refused(&[("body.html", "{% autoescape false %}{{ password }}{% endautoescape %}")], &["body.html", "not escaped"]);
}

#[test]
fn a_language_is_complete_called_by_its_tag_and_there_once() {
    refused(&[("de/subject.txt", "x")], &["de/body.txt is missing"]);
    refused(&[("common1/a.txt", "x")], &["common1", "called by a language"]);
    refused(&[("en/subject.txt", "x"), ("en/body.txt", "{{ password }}")], &["stands twice"]);
    let missing = settings(Some(Path::new("/nowhere/at/all")));
    assert!(
        Templates::load(&missing).unwrap_err().to_string().contains("mailer.templates: /nowhere/at/all cannot be read")
    );
}

#[test]
fn the_templates_that_come_along_are_well_in_both_languages_and_a_sample_of_each_can_be_looked_at() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/templates");
    let templates = Templates::load(&settings(Some(&folder))).unwrap();
    let mail = mail(&templates, Some("de-DE"));
    assert!(mail.subject.contains("vorläufiges") && mail.html.unwrap().contains("lang=\"de\""));
    for language in ["en", "de"] {
        let mail = self::mail(&templates, Some(language));
        assert!(
            mail.text.lines().any(|line| line == SAMPLE),
            "alone on its line, without a space before it: {}",
            *mail.text
        );
        let (html, password) = (mail.html.unwrap(), HtmlEscape(SAMPLE).to_string());
        let (before, after) = html.split_once(&password).unwrap();
        assert!(
            after.starts_with("</p>") && before.ends_with("user-select: all\">"),
            "{language}: alone in its element"
        );
    }
    let own = crate::domain::notification::Template::new("s".into(), "{password}".into()).unwrap();
    let (language, from) = (Language::parse("en").unwrap(), "noreply@example.com".parse().unwrap());
    let samples = tempfile::tempdir().unwrap();
    let to = samples.path().join("new");
    let paths = crate::transport::preview::preview(&templates, &language, &own, &from, &to).unwrap();
    let names: Vec<_> = paths.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["en.txt", "en.html", "en.eml", "de.txt", "de.html", "de.eml"]);
    for path in &paths {
        assert!(std::fs::read_to_string(path).unwrap().contains("Genesys Cloud"), "{}", path.display());
    }
    let bare = crate::transport::preview::preview(&Templates::default(), &language, &own, &from, &to).unwrap();
    assert_eq!(std::fs::read_to_string(&bare[0]).unwrap(), SAMPLE);
}

#[test]
fn no_value_brings_a_line_break_into_a_subject() {
    let folder = folder(&[("subject.txt", "{{ jobId }}")]);
    let templates = Templates::load(&settings(Some(folder.path()))).unwrap();
    let (mut note, words) = sample(&Language::parse("en").unwrap());
    note.job = JobId::new("j\r\nBcc: x@example.com");
    assert_eq!(templates.mail(&note, &words).unwrap().subject, "j  Bcc: x@example.com");
}

#[test]
fn a_loop_that_hardly_ends_is_refused_and_so_is_one_that_only_a_real_mail_comes_to() {
    const LOOP: &str = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}";
    refused(&[("body.txt", &format!("{LOOP}{{{{ password }}}}"))], &["body.txt", "more than 100000 steps", "a loop"]);
    refused(&[("part.txt", LOOP), ("body.txt", "{% include 'part.txt' %}{{ password }}")], &["more than 100000 steps"]);
    let only = format!("{{% if org != 'main' %}}{LOOP}{{% endif %}}{{{{ password }}}}");
    let folder = folder(&[("body.txt", &only)]);
    let templates = Templates::load(&settings(Some(folder.path()))).unwrap();
    let (mut note, words) = sample(&Language::parse("en").unwrap());
    assert!(templates.mail(&note, &words).is_ok());
    note.org = "other".into();
    let said = templates.mail(&note, &words).unwrap_err().to_string();
    assert!(said.contains("body.txt") && said.contains("more than 100000 steps"), "{said}");
}

#[test]
fn a_long_mail_takes_far_fewer_steps_than_there_may_be() {
    let long = "{% for a in range(1000) %}{{ userId }} {{ org }}{% endfor %}".repeat(5) + "{{ password }}";
    let folder = folder(&[("body.txt", &long)]);
    assert!(Templates::load(&settings(Some(folder.path()))).is_ok());
}
