"""The task store on DynamoDB."""
