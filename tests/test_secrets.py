"""Settings with the name or the look of a secret are rejected, and no ordinary setting is."""

import pytest
from omegaconf import OmegaConf

from diffusion.config import secrets
from diffusion.config.choices import conf_dir
from diffusion.errors import UserError
from tests.support.composing import settings

SECRETS = [
    "+db.pwd=hunter2", "auth=Bearer-x", "+http.authorization=x", "apikey=x", "apikeys=x", "+a.api_keys=[x]",
    "access_key=x", "+s3.access_key_id=x", "+s3.secret_access_key=x", "passphrase=x", "++password=x", "+my-token=x",
    "hydra.sweeper.storage=postgresql://me:pw@db/x", "+url=https://me:hunter2secret@db/x", "url='redis://:pw@db'",
    "+db={user: me, pwd: x}", "+db={'password':x}",
]  # fmt: skip
ORDINARY = [
    "hydra.sweeper.storage=sqlite:////tmp/x.db", "hydra.sweeper.storage=postgresql://me@db/x", "+url=http://db:80/a@b",
    "hydra.sweeper.storage=postgresql://me:${oc.env:DB}@db/x", "tokens=5", "+keys=[a,b]", "monkey=x", "author=me",
    "data.root=/home/me@work/a:b", "+keyboard=x", "model.attention=[true,false]", "api_key=null",
    "hydra.run.dir=${now:%H}",
]  # fmt: skip


@pytest.mark.parametrize("word", SECRETS)
def test_overrides_that_contain_a_secret_are_refused(word):
    with pytest.raises(UserError, match="environment") as refused:
        secrets.check_words([word])
    assert word.partition("=")[2] not in str(refused.value)


@pytest.mark.parametrize("word", ORDINARY)
def test_ordinary_overrides_are_accepted(word):
    secrets.check_words([word])


def test_configurations_that_contain_a_secret_are_refused():
    for config in ({"validation": {"url": "https://me:pw@db/x"}}, {"a": [{"pwd": "x"}]}, {"http": {"token": ["x"]}}):
        with pytest.raises(UserError):
            secrets.check_values(config)


def test_the_working_directory_is_not_a_secret(monkeypatch):
    monkeypatch.setenv("PWD", "/home/me/work")
    secrets.check_words(["data.root=/home/me/work/photos"])


@pytest.mark.parametrize("path", sorted(conf_dir().rglob("*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_shipped_choice_is_accepted(path):
    config = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    if isinstance(config, dict):
        secrets.check_values(config)
    if path.parent.name not in ("conf", "hydra"):
        secrets.check_words([f"{path.parent.name}={path.stem}"])


@pytest.mark.parametrize("experiment", [path.stem for path in (conf_dir() / "experiment").glob("*.yaml")])
def test_every_experiment_is_accepted(experiment):
    secrets.check_values(settings([f"experiment={experiment}", "logger=wandb"]).model_dump())
