"""Puts conf/ into the wheel as cvtasks/conf, which pyproject.toml cannot say; everything else stands there."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["cvtasks", "cvtasks.*"]), "cvtasks.conf"],
    package_data={"cvtasks.conf": ["**/*.yaml"]},
)
