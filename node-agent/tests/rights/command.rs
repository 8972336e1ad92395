//! What the `redir` command says of rights, with real kubeconfigs: each refusal names what is missing, and the line that it
//! gives for the admin makes the next try succeed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redir_rig::{cli::Home, wait};
use serde_json::{Value, json};

use crate::{
    request::{RequestUser, WriteVerb},
    world::{RightsCluster, SHOP, SOON, deployment, intercept, intercepts},
};

/// `redir` against a server on a busy machine.
const COMMAND: Duration = Duration::from_secs(60);
const HEADER: [&str; 2] = ["--header", "x-user: alice"];
const ROLE: &str = "--clusterrole=redir-developer";

/// Runs the command as people with the rights of [`RightsCluster`].
struct TestUsers<'a> {
    world: &'a RightsCluster,
    home: Home,
    wrong: Vec<String>,
}

pub(crate) fn tries(world: &RightsCluster) -> Result<Vec<String>> {
    for name in ["web", "other"] {
        let container = json!({"name": "app", "image": "none", "ports": [{"name": "http", "containerPort": 8080}]});
        let template = json!({"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}});
        let spec = json!({"selector": {"matchLabels": {"app": name}}, "template": template});
        world.make(
            &format!("/apis/apps/v1/namespaces/{SHOP}/deployments"),
            &json!({"metadata": {"name": name}, "spec": spec}),
        )?;
    }
    // Statuses that nobody's agent wrote would be dialled.
    world.send(&RequestUser::Admin, WriteVerb::Delete, &intercepts(SHOP), &Value::Null)?;
    let mut people = TestUsers { world, home: Home::new()?, wrong: Vec::new() };
    people.doctor()?;
    people.refusals()?;
    people.names()?;
    people.others()?;
    Ok(people.wrong)
}

impl TestUsers<'_> {
    fn run(&self, user: &str, groups: &[&str], arguments: &[&str]) -> Result<(i32, String)> {
        let kubeconfig = self.world.kubeconfig_as(user, groups)?;
        let mut arguments = arguments.to_vec();
        let kubeconfig = kubeconfig.display().to_string();
        arguments.extend(["-n", SHOP, "--kubeconfig", &kubeconfig]);
        let mut process = self.world.node.spawn("redir", self.home.command()?.args(&arguments))?;
        let code = process.exit_code(COMMAND)?;
        Ok((code, process.log()))
    }

    /// Code and words of one run, and words that must not be there.
    fn says(&mut self, user: &str, arguments: &[&str], code: i32, words: &[&str], never: &[&str]) -> Result<String> {
        let groups: &[&str] = if user == "alice" { &["shop-developers"] } else { &[] };
        let (found, said) = self.run(user, groups, arguments)?;
        let lacks: Vec<&&str> = words.iter().filter(|words| !said.contains(**words)).collect();
        let has: Vec<&&str> = never.iter().filter(|words| said.contains(**words)).collect();
        let what = format!("{user}, redir {}", arguments.join(" "));
        println!("{what}: {found}\n{said}");
        if found != code || !lacks.is_empty() || !has.is_empty() {
            self.wrong.push(format!("{what}: {found}, not {code}; lacks {lacks:?}, has {has:?}: {said}"));
        }
        Ok(said)
    }

    /// What the admin is asked for is done, as it is printed, and counts when the user has this right.
    fn grant(&self, said: &str, user: &str, right: &str) -> Result<()> {
        let line = said.split('`').nth(1).with_context(|| format!("no line for the admin in {said:?}"))?;
        let shell = |line: &str| self.world.shell(line);
        shell(line).with_context(|| format!("the line of {said:?}"))?;
        wait::until_true(format!("{user} to have {right}"), SOON, || {
            let answer = shell(&format!("kubectl -n {SHOP} auth can-i {right} --as {user} || true"))?;
            Ok(answer.trim() == "yes")
        })
    }

    /// The intercept is made, and ends with Ctrl-C.
    fn succeeds(&mut self, user: &str, arguments: &[&str]) -> Result<()> {
        let kubeconfig = self.world.kubeconfig_as(user, &[])?.display().to_string();
        let mut arguments = arguments[1..].to_vec();
        arguments.extend(["-n", SHOP, "--kubeconfig", &kubeconfig]);
        let mut cli = self.home.start(&self.world.node, &arguments)?;
        match cli.wait_event("created", COMMAND) {
            Ok(_) => cli.leave().with_context(|| format!("{user} leaves {arguments:?}")),
            Err(error) => {
                self.wrong.push(format!("{user} after the grant, {arguments:?}: {error:#}"));
                Ok(())
            }
        }
    }

    fn doctor(&mut self) -> Result<()> {
        let may = "you may intercept deploy/web in namespace shop";
        let said = self.says(
            "alice",
            &["doctor"],
            0,
            &[
                "you may make intercepts",
                "you may intercept everything in namespace shop",
                "ok     policies",
                "the name in each intercept",
                "note   quota",
                "kubectl -n shop create quota redir-intercepts --hard=count/intercepts.redir.dev=20",
            ],
            &["FAIL "],
        )?;
        let quota = said.lines().find(|line| line.contains("note   quota")).context("the quota")?;
        let line = quota.split('`').nth(1).with_context(|| format!("no line for the admin in {quota:?}"))?;
        self.world.shell(&format!("{line} --dry-run=server"))?;
        self.says(
            "alice",
            &["doctor", "deploy/web"],
            0,
            &[may, "note   flush", "--verb=flush --resource=deployments.apps --resource-name=web"],
            &["FAIL "],
        )?;
        self.says("alice", &["doctor", "-l", "app=web"], 0, &["you may intercept app=web"], &["FAIL "])?;
        self.says(
            "alice",
            &["doctor", "deploy/nothing"],
            1,
            &["there is no deploy/nothing", "other, web"],
            &["you may not intercept"],
        )?;
        self.says(
            "carol",
            &["doctor"],
            1,
            &["you may make intercepts", "FAIL   targets", "you may intercept nothing in namespace shop"],
            &[],
        )?;
        self.says(
            "carol",
            &["doctor", "deploy/web"],
            1,
            &["FAIL   rights", "you may not intercept deploy/web", "the verb intercept on deployments.apps/web"],
            &[may, ROLE],
        )?;
        self.says(
            "dave",
            &["doctor"],
            0,
            &["deploy/web, ", "pod/web", "service/web"],
            &["FAIL ", "everything", "every "],
        )?;
        self.says("dave", &["doctor", "deploy/web"], 0, &[may], &["FAIL "])?;
        self.says("dave", &["doctor", "deploy/other"], 1, &["you may not intercept deploy/other"], &[ROLE])?;
        self.says(
            "dave",
            &["doctor", "app=web"],
            1,
            &["you may not intercept pods by their labels", "--resource=pods &&"],
            &[ROLE],
        )?;
        self.says("erin", &["doctor", "deploy/web"], 0, &[may, "ok     flush"], &["FAIL ", "note   flush"])?;
        self.says("frank", &["doctor"], 0, &["you may intercept every Pod in namespace shop"], &["FAIL "])?;
        self.says(
            "mallory",
            &["doctor"],
            1,
            &["you may not create, get, list, watch, patch, delete intercepts", ROLE, "--user=mallory"],
            &["you may intercept"],
        )?;
        let said = self.says("dave", &["doctor", "deploy/other", "-o", "json"], 1, &[], &[])?;
        let lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let rights = lines.into_iter().find(|line| line["check"] == "rights").context("the rights")?;
        let missing = json!([{"verb": "intercept", "group": "apps", "resource": "deployments", "name": "other"}]);
        ensure!(rights["finding"] == "problem" && rights["missing"] == missing, "{rights}");
        Ok(())
    }

    /// Each with the line that fixes it, and no more than that.
    fn refusals(&mut self) -> Result<()> {
        let web = |more: &[&'static str]| [&["intercept", "deploy/web", "--port", "http:3000"][..], more].concat();
        let all: Vec<&str> = web(&[]);
        let said = self.says("carol", &all, 1, &["you may not intercept deploy/web in namespace shop (it needs the verb intercept on deployments.apps/web)"], &[ROLE, "create intercepts"])?;
        self.grant(&said, "carol", "intercept deployments.apps/web")?;
        self.succeeds("carol", &all)?;
        let flush = web(&[&["--flush"][..], &HEADER].concat());
        self.succeeds("carol", &web(&["--flush"]))?;
        let said = self.says(
            "carol",
            &flush,
            1,
            &[
                "close other people's connections to deploy/web",
                "leave --flush or the conditions out",
                "the verb flush on deployments.apps/web",
            ],
            &[ROLE, "not intercept"],
        )?;
        self.grant(&said, "carol", "flush deployments.apps/web")?;
        self.succeeds("carol", &flush)?;
        // It is that one and no other.
        self.says(
            "carol",
            &["intercept", "deploy/other", "--port", "http:3000"],
            1,
            &["you may not intercept deploy/other"],
            &[ROLE],
        )?;
        let labels = ["intercept", "-l", "app=web", "--port", "8080:3000"];
        let said = self.says(
            "dave",
            &labels,
            1,
            &["you may not intercept pods by their labels", "the verb intercept on pods)"],
            &[ROLE],
        )?;
        self.grant(&said, "dave", "intercept pods")?;
        self.succeeds("dave", &labels)?;
        // Who has nothing hears all of it at once, and is a developer after one line.
        let said = self.says(
            "mallory",
            &flush,
            1,
            &["create, get, list, watch, patch, delete intercepts and not get deploy/web", ROLE, "--verb=flush"],
            &[],
        )?;
        self.grant(&said, "mallory", "flush deployments.apps/web")?;
        self.succeeds("mallory", &flush)
    }

    /// Whoever looks at intercepts is told where nobody has checked whose they are.
    fn names(&mut self) -> Result<()> {
        let mut object = intercept("of-the-admin", &deployment("web"));
        object["spec"]["from"] = json!("root@desk");
        self.world.make(&intercepts(SHOP), &object)?;
        let checked = "admin (root@desk)";
        self.says("alice", &["list"], 0, &[checked], &["not checked"])?;
        self.says("alice", &["describe", "of-the-admin"], 0, &[checked], &["not checked"])?;
        self.says("alice", &["leave", "of-the-admin"], 1, &["another developer's, admin (root@desk)"], &[])?;
        let binding = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/redir-intercepts";
        let actions = |actions: &str| json!({"spec": {"validationActions": [actions]}});
        self.world.send(&RequestUser::Admin, WriteVerb::MergePatch, binding, &actions("Warn"))?;
        self.says("alice", &["list"], 0, &["admin (root@desk, name not checked)"], &[])?;
        self.says("alice", &["list", "-o", "json"], 0, &["\"developer_checked\":false"], &[])?;
        let less = "validatingadmissionpolicybinding redir-intercepts is missing or checks less";
        self.says("alice", &["doctor"], 1, &["FAIL   policies", less], &[])?;
        self.world.send(&RequestUser::Admin, WriteVerb::MergePatch, binding, &actions("Deny"))?;
        // It may have been made while nobody checked.
        self.says("alice", &["list", "-o", "json"], 0, &["\"developer_checked\":false"], &[])?;
        Ok(())
    }

    /// What no role would help against is told in the server's own words.
    fn others(&mut self) -> Result<()> {
        let rule = json!({"apiGroups": ["redir.dev"], "apiVersions": ["*"], "resources": ["intercepts"],
                          "operations": ["CREATE"]});
        let validation =
            json!({"expression": "object.spec.port != '1'", "reason": "Forbidden", "message": "not on Fridays"});
        let spec = json!({"matchConstraints": {"resourceRules": [rule]}, "validations": [validation]});
        let path = "/apis/admissionregistration.k8s.io/v1";
        let policy = json!({"metadata": {"name": "fridays"}, "spec": spec});
        self.world.make(&format!("{path}/validatingadmissionpolicies"), &policy)?;
        let spec = json!({"policyName": "fridays", "validationActions": ["Deny"]});
        let binding = json!({"metadata": {"name": "fridays"}, "spec": spec});
        self.world.make(&format!("{path}/validatingadmissionpolicybindings"), &binding)?;
        let mut object = intercept("", &deployment("web"));
        object["spec"]["port"] = json!("1");
        wait::until_true("the other policy to count", SOON, || {
            let path = format!("{}?dryRun=All", intercepts(SHOP));
            Ok(self.world.send(&RequestUser::Admin, WriteVerb::Post, &path, &object)?.code == 403)
        })?;
        let never = [ROLE, "you may not", "create role"];
        let first = ["intercept", "deploy/web", "--port", "1:3000"];
        self.says("alice", &first, 1, &["refused to create intercepts", "not on Fridays"], &never)?;
        let spec = json!({"hard": {"count/intercepts.redir.dev": "0"}});
        let quota = json!({"metadata": {"name": "few"}, "spec": spec});
        let path = format!("/api/v1/namespaces/{SHOP}/resourcequotas");
        self.world.make(&path, &quota)?;
        // What a controller would write, were one running.
        let counted = json!({"status": {"hard": quota["spec"]["hard"], "used": {"count/intercepts.redir.dev": "0"}}});
        let counted =
            self.world.send(&RequestUser::Admin, WriteVerb::MergePatch, &format!("{path}/few/status"), &counted)?;
        ensure!(counted.code == 200, "{counted:?}");
        let object = intercept("", &deployment("web"));
        wait::until_true("the quota to count", SOON, || {
            // A dry run is not counted.
            Ok(self.world.send(&RequestUser::Admin, WriteVerb::Post, &intercepts(SHOP), &object)?.code == 403)
        })?;
        let second = ["intercept", "deploy/web", "--port", "http:3000"];
        self.says("alice", &second, 1, &["refused to create intercepts", "exceeded quota: few"], &never)?;
        let few = "quota few lets namespace shop have 0 intercepts";
        self.says("alice", &["doctor"], 0, &["ok     quota", few], &["FAIL "]).map(drop)
    }
}
