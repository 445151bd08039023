//! Pure. The page in place of one that somebody may not see or that is not there: the problem's own words, and what to do.

use super::Visitor;
use super::html::{Link, all, el};
use super::layout::{Mood, Page, notice};
use crate::protocol::ProblemBody;

/// `visitor`: `None` where nobody was let in.
pub fn error_page(visitor: Option<&Visitor>, problem: &ProblemBody) -> String {
    let title = &problem.title;
    let advice = match problem.status {
        401 => {
            "Sign in with a token as the password; the user name can be anything. Tokens are in [[tokens]] of server.toml."
        }
        403 => "Another token may see it: close the browser's window to be asked for one again.",
        503 => "Load the page again in some seconds.",
        _ => "",
    };
    let back = el("p").with(el("a").link("href", &Link::to("/")).with("To the fleet"));
    let words = el("div")
        .with(el("p").with(&problem.detail))
        .with(Some(el("p").with(advice)).filter(|_| !advice.is_empty()))
        .with(Some(back).filter(|_| problem.status == 404));
    let main = all([(el("h1").with(title), notice(Mood::Bad, words))]);
    Page { title, visitor, news: None, main }.into_html()
}

#[cfg(test)]
mod tests {
    use super::super::html::tests::{HOSTILE, assert_tame};
    use super::*;

    #[test]
    fn a_problem_is_told_in_its_own_words_and_nothing_in_them_runs() {
        for text in HOSTILE {
            let problem = ProblemBody {
                status: 404,
                title: "Not Found".to_owned(),
                detail: text.to_owned(),
                ..ProblemBody::default()
            };
            assert_tame(&error_page(None, &problem));
        }
        let problem = ProblemBody { status: 401, title: "Unauthorized".to_owned(), ..ProblemBody::default() };
        let page = error_page(None, &problem);
        assert!(page.contains("as the password") && !page.contains("<nav") && !page.contains("To the fleet"), "{page}");
        let missing = ProblemBody { status: 404, title: "Not Found".to_owned(), ..ProblemBody::default() };
        assert!(error_page(None, &missing).contains("<a href=\"/\">To the fleet</a>"));
    }
}
