//! When the host asks for fresh tokens, how often, what it does with them, and what it does without.

use super::super::paused::pass;
use super::super::times::{handed, says};
use super::super::websocket::head;
use super::*;
use crate::egress::login::refresh;

#[tokio::test]
async fn many_who_need_a_fresh_token_ask_once_and_it_is_written_back_as_the_cli_would() {
    let desk = desk(LoginForm::Claude, &claude(1, -5)).await;
    let before = std::fs::metadata(&desk.file).unwrap();
    let all = futures_util::future::join_all((0..12).map(|_| desk.ask())).await;
    assert!(all.iter().all(|(status, _)| *status == 200), "{all:?}");
    assert_eq!(desk.sent(), vec![token("oat01", 2); 12]);
    let asked = desk.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0]["refresh_token"], token("ort01", 1));
    assert_eq!(asked[0]["scope"], "user:inference user:profile");

    let (was, is): (Value, Value) =
        (serde_json::from_str(&claude(1, -5)).unwrap(), serde_json::from_str(&desk.text()).unwrap());
    let own = &is["claudeAiOauth"];
    assert_eq!((&own["accessToken"], &own["refreshToken"]), (&json!(token("oat01", 2)), &json!(token("ort01", 2))));
    let left = own["expiresAt"].as_i64().unwrap() / 1000 - now();
    assert!((28000..=28800).contains(&left), "{left}");
    for key in ["scopes", "subscriptionType", "rateLimitTier"] {
        assert_eq!(own[key], was["claudeAiOauth"][key]);
    }
    assert_eq!((&is["mcpOAuth"], &is["organizationUuid"]), (&was["mcpOAuth"], &was["organizationUuid"]));
    let after = std::fs::metadata(&desk.file).unwrap();
    assert_eq!((after.mode(), after.uid(), after.gid()), (before.mode(), before.uid(), before.gid()));
    assert_eq!(desk.told().await, ["refreshed"]);
    desk.is_clean().await;
}

#[tokio::test]
async fn a_login_that_is_gone_is_said_once_it_is_not_asked_for_again_and_a_new_one_is_taken() {
    let desk = desk(LoginForm::Claude, &claude(1, -5)).await;
    desk.tokens.lock().unwrap().push_back((400, json!({"error": "invalid_grant", "error_description": REAL})));
    for _ in 0..3 {
        let (status, answer) = desk.ask().await;
        assert_eq!((status, &answer["error"]["code"]), (400, &json!("login_expired")), "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains("log in again, on the host"), "{answer}");
    }
    let body = json!({"grant_type": "refresh_token", "refresh_token": is::CLAUDE_REFRESH}).to_string();
    let (status, answer) = desk.refresh(CLAUDE, "application/json", body).await;
    assert_eq!((status, &answer["error"]), (400, &json!("invalid_grant")));
    assert_eq!((desk.asked().len(), desk.sent().len()), (1, 0));
    assert_eq!(desk.told().await, ["refused"]);
    put(&desk.file, &claude(5, 3600));
    assert_eq!(desk.ask().await.0, 200);
    std::fs::remove_file(&desk.file).unwrap();
    assert_eq!(desk.ask().await.1["error"]["code"], "login_expired", "the host has logged out");
    desk.is_clean().await;
}

#[tokio::test]
async fn where_the_host_has_refreshed_with_the_same_token_its_own_counts() {
    let desk = desk(LoginForm::Claude, &claude(1, -5)).await;
    let (file, tokens) = (desk.file.clone(), Arc::clone(&desk.tokens));
    // The endpoint has given the token to the CLI, which has not written it yet when it is asked again.
    tokens.lock().unwrap().push_back((400, json!({"error": "invalid_grant"})));
    let writing = async {
        while desk.asked().is_empty() {
            tokio::task::yield_now().await;
        }
        // It has the answer only now, and writes after the first look at the file.
        tokio::time::sleep(Duration::from_millis(200)).await;
        put(&file, &claude(6, 3600));
    };
    let ((status, _), ()) = tokio::join!(desk.ask(), writing);
    assert_eq!((status, desk.sent()), (200, vec![token("oat01", 6)]));
    assert_eq!(desk.asked().len(), 1);
    assert!(desk.bench.events("login").await.is_empty(), "nobody has lost a login");
    desk.is_clean().await;
}

#[tokio::test]
async fn a_file_that_cannot_be_written_costs_a_warning_and_no_more_refreshes() {
    // So long that no other name fits beside it: nobody can write there, root neither.
    let desk = desk_at(LoginForm::Claude, &claude(1, -5), &"l".repeat(240)).await;
    let before = desk.text();
    for _ in 0..3 {
        assert_eq!(desk.ask().await.0, 200);
    }
    assert_eq!(desk.sent(), vec![token("oat01", 2); 3]);
    assert_eq!((desk.asked().len(), desk.text()), (1, before));
    assert_eq!(desk.told().await, ["unwritten"]);
    // Touched, it still has what was used up.
    let same = desk.text();
    std::fs::write(&desk.file, same).unwrap();
    assert_eq!(desk.ask().await.0, 200);
    assert_eq!((desk.asked().len(), desk.sent().pop().unwrap()), (1, token("oat01", 2)));
    std::fs::write(&desk.file, claude(9, 3600)).unwrap();
    assert_eq!(desk.ask().await.0, 200);
    assert_eq!((desk.asked().len(), desk.sent().pop().unwrap()), (1, token("oat01", 9)));
    desk.is_clean().await;
}

#[tokio::test]
async fn a_token_that_the_api_refuses_is_renewed_once_and_not_in_a_loop() {
    let desk = desk(LoginForm::Claude, &claude(1, 3600)).await;
    let no = (401, json!({"type": "error", "error": {"type": "authentication_error", "message": "expired"}}));
    desk.api.lock().unwrap().extend([no.clone(), no.clone(), no]);
    let mut heard = vec![];
    for _ in 0..5 {
        heard.push(desk.ask().await.0);
    }
    assert_eq!(heard, [401, 401, 401, 200, 200]);
    let fresh = token("oat01", 2);
    assert_eq!(desk.sent(), [&token("oat01", 1), &fresh, &fresh, &fresh, &fresh].map(Clone::clone));
    assert_eq!(desk.asked().len(), 1);
    desk.is_clean().await;
}

/// What the API says to a token that it does not want, or to headers that it does not want: nobody can tell which.
fn unauthorized() -> (u16, Value) {
    (401, json!({"type": "error", "error": {"type": "authentication_error", "message": "no"}}))
}

#[tokio::test]
async fn a_401_that_one_bottle_provokes_costs_the_others_nothing() {
    // The token has just been taken: what is said to somebody else is about something else.
    let desk_one = desk(LoginForm::Claude, &claude(1, 3600)).await;
    assert_eq!(desk_one.ask().await.0, 200);
    for _ in 0..3 {
        desk_one.api.lock().unwrap().push_back(unauthorized());
        assert_eq!((desk_one.ask().await.0, desk_one.ask().await.0), (401, 200));
    }
    assert_eq!((desk_one.asked().len(), desk_one.sent()), (0, vec![token("oat01", 1); 7]));
    desk_one.is_clean().await;

    // It was never taken, and the endpoint does not give another: it is used as long as it lasts.
    for answer in [(400, json!({"error": "invalid_grant"})), (500, json!({}))] {
        let desk = desk(LoginForm::Claude, &claude(1, 3600)).await;
        desk.api.lock().unwrap().extend([unauthorized(), unauthorized(), unauthorized()]);
        desk.tokens.lock().unwrap().push_back(answer);
        let mut heard = vec![];
        for _ in 0..5 {
            heard.push(desk.ask().await.0);
        }
        assert_eq!(heard, [401, 401, 401, 200, 200]);
        let body = json!({"grant_type": "refresh_token", "refresh_token": is::CLAUDE_REFRESH}).to_string();
        assert_eq!(desk.refresh(CLAUDE, "application/json", body).await.0, 200);
        assert_eq!((desk.asked().len(), desk.sent()), (1, vec![token("oat01", 1); 5]));
        desk.is_clean().await;
    }
}

#[tokio::test]
async fn a_clock_by_which_fresh_tokens_have_ended_is_named_and_does_not_use_up_one_after_the_other() {
    let desk = desk(LoginForm::Codex, &codex(1, -5)).await;
    let fresh = json!({"access_token": jwt(2, now() - 5), "refresh_token": token("rt", 2)});
    desk.tokens.lock().unwrap().push_back((200, fresh));
    for _ in 0..3 {
        let (status, answer) = desk.ask().await;
        assert_eq!((status, &answer["error"]["code"]), (400, &json!("login_expired")), "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains("the clock of this host"), "{answer}");
    }
    assert_eq!((desk.asked().len(), desk.sent().len()), (1, 0));
    desk.is_clean().await;
}

#[tokio::test]
async fn the_end_waits_for_what_was_asked_and_asks_nothing_more() {
    let desk = desk(LoginForm::Claude, &claude(1, -5)).await;
    let ending = async {
        while desk.asked().is_empty() {
            tokio::task::yield_now().await;
        }
        desk.holder.end().await;
        assert!(desk.text().contains(&token("ort01", 2)), "what came was written");
    };
    let ((status, _), ()) = tokio::join!(desk.ask(), ending);
    assert_eq!((status, desk.asked().len()), (200, 1));
    desk.is_clean().await;
    ended().await;
}

/// One that has ended before it was ever asked.
async fn ended() {
    let desk = desk(LoginForm::Claude, &claude(1, -5)).await;
    desk.holder.end().await;
    let (status, answer) = desk.ask().await;
    assert_eq!((status, &answer["error"]["kind"]), (502, &json!("upstream_unreachable")), "{answer}");
    put(&desk.file, &claude(6, 100));
    assert_eq!(desk.ask().await.0, 200, "what still lasts is used");
    assert_eq!(desk.asked().len(), 0);
    desk.is_clean().await;
}

#[tokio::test]
async fn an_endpoint_that_fails_is_left_alone_for_a_while_and_never_quoted() {
    for (status, answer) in [
        (500, json!({"error": REAL})),
        (200, json!({"access_token": format!("{REAL} with a gap"), "expires_in": 3600})),
        (200, json!({"access_token": token("oat01", 2), "expires_in": 1})),
        (200, json!({"pad": REAL.repeat(10_000)})),
        (429, json!([REAL])),
    ] {
        let spent = desk(LoginForm::Claude, &claude(1, -5)).await;
        let near = desk(LoginForm::Claude, &claude(1, 110)).await;
        for desk in [&spent, &near] {
            desk.tokens.lock().unwrap().push_back((status, answer.clone()));
        }
        for _ in 0..3 {
            let (got, said) = spent.ask().await;
            assert_eq!((got, &said["error"]["kind"]), (502, &json!("upstream_unreachable")), "{said}");
            assert_eq!(near.ask().await.0, 200, "what still lasts is used");
        }
        let body = json!({"grant_type": "refresh_token", "refresh_token": is::CLAUDE_REFRESH}).to_string();
        let (got, said) = spent.refresh(CLAUDE, "application/json", body).await;
        assert_eq!((got, &said["error"]), (502, &json!("temporarily_unavailable")));
        assert_eq!((spent.asked().len(), near.asked().len()), (1, 1));
        spent.is_clean().await;
        near.is_clean().await;
    }
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_is_not_waited_for_for_long() {
    let inside = refresh::ANSWER - Duration::from_secs(5);
    for (left, answers) in [(-5, true), (-5, false), (110, false)] {
        let (upstream, mut taken) = handed().await;
        let desk = desk_on(bench_to(upstream, None).await, LoginForm::Claude, &claude(1, left), "login.json");
        let json = |body: String| {
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        };
        let server = async {
            let mut endpoint = taken.recv().await.unwrap();
            head(&mut endpoint).await;
            pass(inside).await;
            if answers {
                let fresh = json!({"access_token": token("oat01", 2), "expires_in": 3600}).to_string();
                says(&mut endpoint, json(fresh)).await;
            } else {
                pass(refresh::ANSWER).await;
            }
            let token = match (answers, left > 0) {
                (true, _) => token("oat01", 2),
                (false, true) => token("oat01", 1),
                (false, false) => return endpoint,
            };
            let mut api = taken.recv().await.unwrap();
            let asked = head(&mut api).await;
            assert!(asked.contains(&format!("authorization: Bearer {token}\r\n")), "{asked}");
            says(&mut api, json(message_json(3, 4))).await;
            endpoint
        };
        let ((status, answer), _endpoint) = tokio::join!(desk.ask(), server);
        if answers || left > 0 {
            assert_eq!(status, 200, "{answer}");
        } else {
            assert_eq!((status, &answer["error"]["kind"]), (502, &json!("upstream_unreachable")), "{answer}");
            assert!(answer["error"]["message"].as_str().unwrap().contains("no answer within 10 s"), "{answer}");
        }
        assert!(!desk.heard.lock().unwrap().contains(REAL));
    }
}
